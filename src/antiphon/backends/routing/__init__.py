"""Chooses who answers a request, tries again where that is safe, and keeps away from who fails."""

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
