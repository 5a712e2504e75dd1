"""The parts of the console of one server process."""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from antiphon.accounts import Accounts
from antiphon.backends.base import Backend
from antiphon.engine import Engine
from antiphon.models import ModelStore
from antiphon.server.console.access import ConsoleAccess
from antiphon.server.console.feed import Feed
from antiphon.server.console.models import Engines, LocalNames, ModelFetch, ModelViews
from antiphon.server.console.settings import ConsoleSettings
from antiphon.server.request.capture import CaptureRing
from antiphon.server.request.live import LiveRequests


def _no_engines() -> Mapping[str, Engine]:
    return {}


def _no_names() -> Mapping[str, str]:
    return {}


class ConsoleOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the console needs from outside.

    ``home`` None: the user's own. ``engines`` are those of this machine by model, ``local_names`` the names that lead to them.
    """

    settings: ConsoleSettings = ConsoleSettings()
    home: Path | None = None
    engines: Engines = _no_engines
    local_names: LocalNames = _no_names
    num_workers: int = 1


class ConsoleParts:
    """Puts them together; ``close`` ends the feeds of open pages."""

    def __init__(self, options: ConsoleOptions, accounts: Accounts, backend: Backend, live: LiveRequests) -> None:
        settings = options.settings
        self.settings = settings
        self.num_workers = options.num_workers
        self.access = ConsoleAccess(accounts, backend)
        self.capture = CaptureRing(settings.capture_max_bytes, settings.capture_max_age_s) if settings.capture else None
        self.store = ModelStore(options.home)
        self.fetch = ModelFetch(self.store)
        self.views = ModelViews(backend, options.engines, options.local_names, self.fetch)
        self.feed = Feed(accounts, live, self.views.live)

    def close(self) -> None:
        """End what would hold up the end of the server."""
        self.feed.close()
        if self.capture is not None:
            self.capture.close()
