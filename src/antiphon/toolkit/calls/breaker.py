"""A circuit breaker: leave an endpoint alone for a while after it failed repeatedly."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from openai import APIConnectionError, APIStatusError

from antiphon.toolkit.errors import CircuitOpenError, RetryExhaustedError
from antiphon.toolkit.pacing.clock import Clock, SystemClock
from antiphon.wire.circuit_breaker import BreakerState
from antiphon.wire.failures import is_server_error

State = Literal["closed", "open", "trial"]


@dataclass(frozen=True, slots=True)
class BreakerStatistics:
    """``failures`` in a row so far; ``num_opened`` times opened and ``num_refused`` calls not made, in all."""

    state: State
    failures: int
    num_opened: int
    num_refused: int


class CircuitBreaker:
    """Opens after ``failures`` calls in a row failed; ``rest_s`` seconds later one trial call decides.

    What counts is an endpoint that does not work: no connection, no answer in time, 5xx. A 429 or another 4xx is an
    answer. May be shared by chats, threads and tasks that call the same endpoint.
    """

    def __init__(self, *, failures: int = 5, rest_s: float = 30.0, clock: Clock | None = None) -> None:
        if failures < 1 or rest_s <= 0:
            raise ValueError(f"failures must be >= 1 and rest_s > 0, got {failures!r} and {rest_s!r}")
        self.failures = failures
        self.rest_s = rest_s
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._circuit = BreakerState(failures, rest_s, rest_s)
        self._num_refused = 0

    @contextmanager
    def guard(self) -> Generator[None]:
        """Enclose one call; raises CircuitOpenError in place of making it while the circuit is open."""
        is_trial = self._enter()
        try:
            yield
        except BaseException as error:
            self._leave(has_failed=is_failure(error), is_trial=is_trial, is_known=isinstance(error, Exception))
            raise
        self._leave(has_failed=False, is_trial=is_trial, is_known=True)

    def statistics(self) -> BreakerStatistics:
        with self._lock:
            circuit = self._circuit
            is_closed = circuit.state(self._clock.now()) == "closed"
            state: State = "closed" if is_closed else "trial" if circuit.is_trying else "open"
            return BreakerStatistics(state, circuit.num_failures, circuit.num_opened, self._num_refused)

    def _enter(self) -> bool:
        with self._lock:
            now = self._clock.now()
            if self._circuit.admits(now):
                return self._circuit.begin(now)
            self._num_refused += 1
            num_failures, left_s = self._circuit.num_failures, self._circuit.left_s(now)
        raise CircuitOpenError(
            f"Not sent: the endpoint failed {num_failures} times in a row and is left alone",
            retry_in_s=left_s,
            hint=f"the next trial is in {left_s:.1f} s; check the server, or name fallbacks=[...]",
        )

    def _leave(self, *, has_failed: bool, is_trial: bool, is_known: bool) -> None:
        with self._lock:
            if has_failed:
                self._circuit.fail(self._clock.now(), is_trial=is_trial)
            elif is_known:
                self._circuit.succeed(is_trial=is_trial)
            else:
                # A call that was cancelled says nothing about the endpoint.
                self._circuit.abandon(is_trial=is_trial)


def is_failure(error: BaseException) -> bool:
    """Tell whether ``error`` says that the endpoint itself does not work."""
    cause = error.__cause__ if isinstance(error, RetryExhaustedError) else error
    if isinstance(cause, APIStatusError):
        return is_server_error(cause.status_code)
    return isinstance(cause, APIConnectionError)
