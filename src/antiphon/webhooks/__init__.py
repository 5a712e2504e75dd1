"""Webhooks: the server reports to an application what has ended."""

from antiphon.webhooks.deliveries import Deliveries
from antiphon.webhooks.sender import WebhookSender, WebhookStatistics
from antiphon.webhooks.settings import EventType, WebhookEndpoint, WebhookSettings

__all__ = ["Deliveries", "EventType", "WebhookEndpoint", "WebhookSender", "WebhookSettings", "WebhookStatistics"]
