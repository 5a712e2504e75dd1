"""A circuit breaker: closed, open for a while, then half open for one try. Pure; the caller brings the time."""

from typing import Literal

from antiphon.backends.routing.settings import BreakerSettings


class Breaker:
    """The state of one target. Times are seconds of any monotonic clock."""

    def __init__(self, settings: BreakerSettings) -> None:
        self._settings = settings
        self._failures = 0
        self._cooldown_s = settings.cooldown_s
        self._open_until: float | None = None
        self._is_trying = False

    def state(self, now: float) -> Literal["closed", "open", "half-open"]:
        if self._open_until is None:
            return "closed"
        return "open" if now < self._open_until else "half-open"

    def wait_s(self, now: float) -> float:
        """Return 0 if a request may be sent now, else the seconds until it is worth asking again."""
        if self._open_until is None:
            return 0.0
        if now < self._open_until:
            return self._open_until - now
        # Half open: whoever comes while one request tries it waits for that one's luck.
        return self._settings.cooldown_s / 8 if self._is_trying else 0.0

    def begin(self, now: float) -> None:
        """A request is sent; while half open it is the one that tries."""
        self._is_trying = self.state(now) == "half-open"

    def succeed(self) -> None:
        """It answered: closed, and the count starts again."""
        self._failures = 0
        self._cooldown_s = self._settings.cooldown_s
        self._open_until = None
        self._is_trying = False

    def fail(self, now: float) -> None:
        """It failed in a way that says something about the backend, not about the request."""
        was_trying, self._is_trying = self._is_trying, False
        self._failures += 1
        if was_trying:
            self._cooldown_s = min(self._cooldown_s * 2, self._settings.max_cooldown_s)
        if was_trying or (self._failures >= self._settings.failures and self._open_until is None):
            self._open_until = now + self._cooldown_s

    def abandon(self) -> None:
        """It was given up before it told anything, as when the client left."""
        self._is_trying = False
