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
        self._in_a_row = self._num_opened = self._num_refused = 0
        self._opened_at: float | None = None
        self._is_trying = False

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
            state: State = "closed" if self._opened_at is None else "trial" if self._is_trying else "open"
            return BreakerStatistics(state, self._in_a_row, self._num_opened, self._num_refused)

    def _enter(self) -> bool:
        with self._lock:
            if self._opened_at is None:
                return False
            left = self._opened_at + self.rest_s - self._clock.now()
            if left <= 0 and not self._is_trying:
                self._is_trying = True
                return True
            self._num_refused += 1
        raise CircuitOpenError(
            f"Not sent: the endpoint failed {self._in_a_row} times in a row and is left alone",
            retry_in_s=max(0.0, left),
            hint=f"the next trial is in {max(0.0, left):.1f} s; check the server, or name fallbacks=[...]",
        )

    def _leave(self, *, has_failed: bool, is_trial: bool, is_known: bool) -> None:
        with self._lock:
            if is_trial:
                self._is_trying = False
            if has_failed:
                self._in_a_row += 1
                if is_trial or (self._in_a_row >= self.failures and self._opened_at is None):
                    self._opened_at = self._clock.now()
                    self._num_opened += 1
            elif is_known:
                # A call that was cancelled says nothing about the endpoint.
                self._in_a_row, self._opened_at = 0, None


def is_failure(error: BaseException) -> bool:
    """Tell whether ``error`` says that the endpoint itself does not work."""
    cause = error.__cause__ if isinstance(error, RetryExhaustedError) else error
    if isinstance(cause, APIStatusError):
        return cause.status_code >= 500  # noqa: PLR2004 - HTTP
    return isinstance(cause, APIConnectionError)
