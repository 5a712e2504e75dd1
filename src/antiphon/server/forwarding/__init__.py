"""Requests for paths that this server does not answer itself: sent on to the upstream that does."""

from antiphon.server.forwarding.addressing import Addressing
from antiphon.server.forwarding.choice import HEADER
from antiphon.server.forwarding.forwarder import Forwarder

__all__ = ["HEADER", "Addressing", "Forwarder"]
