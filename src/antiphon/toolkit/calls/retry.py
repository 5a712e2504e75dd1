"""Retries owned in one place, within one total time, that explain themselves.

The official client retries twice by itself, which is often enough. A ``RetryPolicy`` takes its place (the client's own
retries are then off) where a call must survive longer trouble, must end within a known time, or must wait as long
as the server asks: the client gives up at once when ``Retry-After`` is above 120 s, and repeats calls that can never
succeed, such as one over the quota.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from openai import APIConnectionError, APIError, APIStatusError, APITimeoutError

from antiphon.toolkit._sync import portal
from antiphon.toolkit.calls.retry_table import RetryCase, RetryTable
from antiphon.toolkit.errors import RetryExhaustedError
from antiphon.toolkit.observing import event
from antiphon.toolkit.pacing.clock import Clock, SystemClock
from antiphon.wire.failures import LASTING_CODES, is_transient, should_retry
from antiphon.wire.retry_after import retry_after_s

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RetryDecision:
    """Whether to try again, after how many seconds, and why."""

    wait_s: float | None
    reason: str

    @property
    def is_retry(self) -> bool:
        return self.wait_s is not None


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Up to ``attempts`` tries within ``total_s`` seconds, waits included.

    Waits what the server asks (``retry-after-ms``, ``Retry-After``), else ``initial_s * 2**n`` up to ``longest_s``, less
    up to ``jitter`` of it. ``x-should-retry`` overrides the status. A wait that would end after ``total_s`` is not begun.
    """

    attempts: int = 6
    total_s: float = 120.0
    initial_s: float = 0.5
    longest_s: float = 8.0
    jitter: float = 0.25

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts must be >= 1, got {self.attempts!r}")
        if not (self.total_s > 0 and 0 < self.initial_s <= self.longest_s and 0 <= self.jitter <= 1):
            raise ValueError(f"times must be > 0, initial_s <= longest_s and jitter within 0..1, got {self!r}")

    def decide(self, error: Exception, *, attempt: int, elapsed_s: float) -> RetryDecision:
        """Decide after ``error`` ended try number ``attempt`` (from 1), ``elapsed_s`` seconds after the first began."""
        is_passing, reason = classify(error)
        if not is_passing:
            return RetryDecision(None, reason)
        if attempt >= self.attempts:
            return RetryDecision(None, f"{reason}; all {self.attempts} tries are used")
        asked = requested_wait_s(error)
        wait = self._backoff(attempt) if asked is None else asked
        if elapsed_s + wait > self.total_s:
            return RetryDecision(None, f"{reason}; waiting {wait:.1f} s would pass the total of {self.total_s:g} s")
        return RetryDecision(wait, reason if asked is None else f"{reason}; the server asks for {wait:.1f} s")

    async def acall(
        self,
        function: Callable[[], Awaitable[T]],
        *,
        clock: Clock | None = None,
        on_retry: Callable[[str, float], None] | None = None,
    ) -> tuple[T, int]:
        """Await ``function()`` until it succeeds; return its result and the number of retries.

        ``on_retry`` is called with the reason and the seconds of the wait before each of them.

        Errors that retrying cannot fix pass through; the last of the others is the cause of RetryExhaustedError.
        The client inside must not retry by itself (``max_retries=0``). Only the waits and the start of tries are
        bounded by ``total_s``: the client's own ``timeout`` bounds each try.
        """
        clock = clock or SystemClock()
        begun, attempt = clock.now(), 1
        while True:
            try:
                return await function(), attempt - 1
            except APIError as error:
                decision = self.decide(error, attempt=attempt, elapsed_s=clock.now() - begun)
                if decision.wait_s is None:
                    if attempt == 1 or not classify(error)[0]:
                        raise
                    raise _exhausted(attempt, clock.now() - begun, decision) from error
            event("antiphon.retry", {"antiphon.wait_s": decision.wait_s, "antiphon.reason": decision.reason})
            if on_retry is not None:
                on_retry(decision.reason, decision.wait_s)
            await clock.sleep(decision.wait_s)
            attempt += 1

    def call(self, function: Callable[[], Awaitable[T]]) -> T:
        """Do what ``acall`` does on the toolkit's own loop and return the result alone."""

        async def run() -> T:
            return (await self.acall(function))[0]

        return portal.call(run())

    def explain(self) -> RetryTable:
        """Return, as a table, who retries what and how long at most."""
        steps = [min(self.initial_s * 2**n, self.longest_s) for n in range(self.attempts - 1)]
        most = min(sum(steps), self.total_s)
        own = f"{self.initial_s:g} s doubling to {self.longest_s:g} s, less up to {self.jitter:.0%}"
        return RetryTable(
            f"RetryPolicy: at most {self.attempts} tries; no try begins later than {self.total_s:g} s after the first. "
            "The client's own retries are off.",
            (
                RetryCase("connection failed, timeout", "policy", own, f"{most:g} s of waiting"),
                RetryCase("408, 409, 429, 5xx", "policy", own, f"{most:g} s of waiting"),
                RetryCase(
                    "any of these with Retry-After", "policy", "what the server asks", f"{self.total_s:g} s in all"
                ),
                RetryCase("x-should-retry: true / false", "policy", "as above / no retry", "overrides the status"),
                RetryCase("429 insufficient_quota", "nobody", "-", "fails at once: add credit"),
                RetryCase("other 4xx", "nobody", "-", "fails at once: fix the request"),
                RetryCase("a stream after its first chunk", "nobody", "-", "StreamError keeps the text so far"),
            ),
        )

    def _backoff(self, attempt: int) -> float:
        longest = min(self.initial_s * 2 ** (attempt - 1), self.longest_s)
        return longest * (1 - self.jitter * random.random())  # noqa: S311 - spreads load, keeps no secret


def classify(error: Exception) -> tuple[bool, str]:
    """Tell whether ``error`` may pass by itself, and what it is in a few words."""
    if isinstance(error, APITimeoutError):
        return True, "no answer in time"
    if isinstance(error, APIConnectionError):
        return True, "connection failed"
    if not isinstance(error, APIStatusError):
        return False, type(error).__name__
    name = f"{error.status_code} {error.code}" if error.code else str(error.status_code)
    asked = should_retry(error.response.headers)
    if asked is not None:
        return asked, f"{name}; the server says x-should-retry: {str(asked).lower()}"
    if error.code in LASTING_CODES:
        return False, name
    return is_transient(error.status_code), name


def requested_wait_s(error: Exception) -> float | None:
    """Return the seconds that the server asks to wait (``retry-after-ms``, ``Retry-After``), or None."""
    if not isinstance(error, APIStatusError):
        return None
    return retry_after_s(error.response.headers, time.time())


def _exhausted(attempts: int, elapsed_s: float, decision: RetryDecision) -> RetryExhaustedError:
    return RetryExhaustedError(
        f"Gave up after {attempts} tries in {elapsed_s:.1f} s: {decision.reason}",
        hint="raise RetryPolicy(attempts=..., total_s=...), send less at once, or name fallbacks=[...]",
    )
