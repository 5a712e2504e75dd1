"""The state of one target, a model of a backend: its requests in flight, and whether it may be tried now."""

import time
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import msgspec

from antiphon.backends.base import Backend, RelayingBackend
from antiphon.backends.routing.retry_decision import RetryDecision
from antiphon.backends.routing.settings import BreakerSettings
from antiphon.wire.circuit_breaker import BreakerState

_MAX_PAUSE_S = 60.0
"""No backend is skipped longer at its own request: it may have been restarted meanwhile."""


@runtime_checkable
class PacedBackend(Protocol):
    """A backend whose own limits are known before it refuses."""

    def wait_s(self, model: str) -> float:
        """Return the seconds until its limits allow a request; 0 for now."""
        ...


class TargetStatistics(msgspec.Struct, frozen=True):
    """``is_open``: the circuit breaker keeps requests away. ``wait_s``: until a request may go."""

    outstanding: int
    requests_total: int
    failures_total: int
    is_open: int
    wait_s: float


class TargetState:
    """Shared by every route with this model of this backend as a target. ``now`` is a monotonic clock in seconds."""

    def __init__(
        self, name: str, backend: Backend, breaker: BreakerSettings, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.name = name
        self.backend = backend
        self.outstanding = 0
        # Checked once: on a protocol with many members isinstance() costs a tenth of a millisecond.
        self.relaying = backend if isinstance(backend, RelayingBackend) else None
        self._paced = backend if isinstance(backend, PacedBackend) else None
        self._breaker = BreakerState(breaker.failures, breaker.cooldown_s, breaker.max_cooldown_s)
        self._paused_until = 0.0
        self._now = now
        self._num_requests = 0
        self._num_failures = 0

    @property
    def was_used(self) -> bool:
        """Whether any request used this target. Direct local requests bypass it."""
        return self._num_requests > 0

    @property
    def is_down(self) -> bool:
        """Whether the backend's own health says that it cannot answer."""
        return self.backend.health().state == "down"

    def wait_s(self, model: str) -> float:
        """Return 0 if a request for ``model`` may go now, else the seconds until it is worth checking again."""
        now = self._now()
        paced = self._paced.wait_s(model) if self._paced is not None else 0.0
        return max(self._paused_until - now, self._breaker.wait_s(now), paced, 0.0)

    def begin(self) -> bool:
        """Note that a request is sent, which ``end`` has to follow; returns whether it is the breaker's trial."""
        self.outstanding += 1
        self._num_requests += 1
        return self._breaker.begin(self._now())

    def end(self) -> None:
        """Note that the request is over, with whatever result."""
        self.outstanding -= 1

    def succeeded(self, *, is_trial: bool) -> None:
        """Note that the first token came."""
        self._breaker.succeed(is_trial=is_trial)

    def failed(self, decision: RetryDecision, *, is_trial: bool = False) -> None:
        """Note a failure, before the first token or within the answer."""
        now = self._now()
        self._num_failures += 1
        if decision.pause_s is not None:
            self._paused_until = max(self._paused_until, now + min(decision.pause_s, _MAX_PAUSE_S))
        if decision.is_fault:
            self._breaker.fail(now, is_trial=is_trial)
        elif decision.again == "nowhere":
            # The backend answered; an invalid request says nothing against it.
            self._breaker.succeed(is_trial=is_trial)
        else:
            self._breaker.abandon(is_trial=is_trial)

    def abandoned(self, *, is_trial: bool) -> None:
        """Note that the client left before the backend showed anything."""
        self._breaker.abandon(is_trial=is_trial)

    def statistics(self) -> TargetStatistics:
        now = self._now()
        is_open = self._breaker.state(now) != "closed"
        wait_s = max(self._paused_until - now, self._breaker.wait_s(now), 0.0)
        return TargetStatistics(self.outstanding, self._num_requests, self._num_failures, int(is_open), wait_s)
