"""A circuit breaker: closed, open for a while, then half open for one trial. Pure; the caller brings the time."""

from typing import Literal

State = Literal["closed", "open", "half-open"]


class BreakerState:
    """Opens after ``failures`` in a row, for ``cooldown_s``; each failed trial doubles that, up to ``max_cooldown_s``.

    Times are seconds of any monotonic clock. Each request is announced by ``begin`` and settled by ``succeed``, ``fail``
    or ``abandon`` with the ``is_trial`` that ``begin`` returned: a request that was sent before the circuit opened does not
    decide for the trial.
    """

    def __init__(self, failures: int, cooldown_s: float, max_cooldown_s: float) -> None:
        self._allowed = failures
        self._first_cooldown_s = self._cooldown_s = cooldown_s
        self._max_cooldown_s = max_cooldown_s
        self._open_until: float | None = None
        self.num_failures = 0
        self.num_opened = 0
        self.is_trying = False

    def state(self, now: float) -> State:
        if self._open_until is None:
            return "closed"
        return "open" if now < self._open_until else "half-open"

    def admits(self, now: float) -> bool:
        """Whether a request may be sent now."""
        return self._open_until is None or (now >= self._open_until and not self.is_trying)

    def left_s(self, now: float) -> float:
        """Return the seconds until the circuit is half open; 0 when it is closed or half open."""
        return 0.0 if self._open_until is None else max(0.0, self._open_until - now)

    def wait_s(self, now: float) -> float:
        """Return 0 if a request may be sent now, else the seconds until it is worth asking again."""
        if self.admits(now):
            return 0.0
        # A request that meets a trial waits for the trial's result, which may come at any time.
        return self.left_s(now) or self._first_cooldown_s / 8

    def begin(self, now: float) -> bool:
        """Note that a request is sent; returns whether it is the trial."""
        if self.state(now) != "half-open" or self.is_trying:
            return False
        self.is_trying = True
        return True

    def succeed(self, *, is_trial: bool = False) -> None:
        """Close the circuit: the request was answered."""
        self.is_trying = self.is_trying and not is_trial
        self.num_failures = 0
        self._cooldown_s = self._first_cooldown_s
        self._open_until = None

    def fail(self, now: float, *, is_trial: bool = False) -> None:
        """Count a failure that says something about the endpoint, not about the request."""
        self.is_trying = self.is_trying and not is_trial
        self.num_failures += 1
        if is_trial:
            self._cooldown_s = min(self._cooldown_s * 2, self._max_cooldown_s)
        if is_trial or (self.num_failures >= self._allowed and self._open_until is None):
            self._open_until = now + self._cooldown_s
            self.num_opened += 1

    def abandon(self, *, is_trial: bool = False) -> None:
        """Note that the request ended before it showed anything, as when the client left."""
        self.is_trying = self.is_trying and not is_trial
