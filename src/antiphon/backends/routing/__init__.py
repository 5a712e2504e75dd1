"""Chooses the backend of a request, retries where that is safe, and avoids backends that fail."""

from antiphon.backends.routing.dispatch import Clock
from antiphon.backends.routing.router import Router
from antiphon.backends.routing.settings import (
    BreakerSettings,
    DefaultName,
    NameSettings,
    RetrySettings,
    RouteSettings,
    TargetSettings,
)

__all__ = [
    "BreakerSettings",
    "Clock",
    "DefaultName",
    "NameSettings",
    "RetrySettings",
    "RouteSettings",
    "Router",
    "TargetSettings",
]
