"""Chooses who answers a request, tries again where that is safe, and keeps away from who fails."""

from antiphon.backends.routing.dispatch import Clock
from antiphon.backends.routing.router import Router
from antiphon.backends.routing.settings import BreakerSettings, RetrySettings, RouteSettings, TargetSettings

__all__ = ["BreakerSettings", "Clock", "RetrySettings", "RouteSettings", "Router", "TargetSettings"]
