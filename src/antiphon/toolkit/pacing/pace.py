"""The pacer with a clock: where concurrent calls wait for their turn, first come, first served."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from antiphon.toolkit.pacing.clock import Clock, SystemClock
from antiphon.toolkit.pacing.pacer import Pacer, PacerStatistics, Ticket
from antiphon.toolkit.pacing.rate_limits import RateLimits


@dataclass(slots=True)
class Passage:
    """One call that was let through; the caller notes here what its answer told."""

    ticket: Ticket
    used_tokens: int | None = None
    reported: RateLimits | None = None
    hold_s: float = 0.0

    def note_headers(self, headers: Mapping[str, str]) -> None:
        """Take over the limits that an answer's headers tell."""
        self.reported = RateLimits.from_headers(headers) or self.reported


@dataclass(slots=True, eq=False)
class _Waiting:
    """A call in the queue, in the event loop that it belongs to."""

    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    event: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self) -> None:
        with suppress(RuntimeError):
            # A loop that is closed has nobody left who waits.
            self.loop.call_soon_threadsafe(self.event.set)


class Pace:
    """Limits per minute, of requests and of tokens, that everything keeps to that is given this object.

    Give one to chats, ``extract``, ``embed``, an ``Index`` and ``bulk.run`` that share a key: in no 60 seconds is more
    sent than the limits allow. A limit that is not given is learnt from the first answer's headers; until then one call
    goes out alone. A 429 with ``Retry-After`` holds all of them. ``concurrency`` bounds the calls under way. May be shared
    by threads and event loops.
    """

    def __init__(
        self,
        rpm: int | None = None,
        tpm: int | None = None,
        *,
        concurrency: int | None = None,
        clock: Clock | None = None,
    ) -> None:
        for name, value in (("rpm", rpm), ("tpm", tpm), ("concurrency", concurrency)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be >= 1, got {value!r}")
        self.clock = clock or SystemClock()
        self._pacer = Pacer(rpm, tpm)
        self._concurrency = concurrency
        self._lock = threading.Lock()
        self._queue: deque[_Waiting] = deque()

    @property
    def tpm(self) -> int | None:
        """The limit of tokens per minute, None while none is known."""
        return self._pacer.tpm

    @asynccontextmanager
    async def passage(self, tokens: int) -> AsyncGenerator[Passage]:
        """Wait for a turn, then hold a place while the call runs; its reservation is settled on the way out.

        Raises RequestTooLargeError when the call can never fit the limit.
        """
        passage = Passage(await self._admitted(tokens))
        try:
            yield passage
        finally:
            now = self.clock.now()
            with self._lock:
                self._pacer.settle(passage.ticket, now, used_tokens=passage.used_tokens, reported=passage.reported)
                if passage.hold_s > 0:
                    self._pacer.hold(passage.hold_s, now)
            self._wake_first()

    def statistics(self) -> PacerStatistics:
        """Return an immutable picture of the limits."""
        with self._lock:
            return self._pacer.statistics(self.clock.now())

    async def _admitted(self, tokens: int) -> Ticket:
        waiting = _Waiting()
        with self._lock:
            self._queue.append(waiting)
        try:
            while True:
                with self._lock:
                    is_first = self._queue[0] is waiting
                    wait_s = self._wait_s(tokens) if is_first else None
                    if wait_s == 0.0:
                        return self._pacer.admit(tokens, self.clock.now())
                    waiting.event.clear()
                await self._wait(waiting.event, wait_s)
        finally:
            with self._lock:
                self._queue.remove(waiting)
            self._wake_first()

    def _wait_s(self, tokens: int) -> float | None:
        """Return the seconds until the first in the queue may go; None: when another call ends."""
        if self._concurrency is not None and self._pacer.in_flight >= self._concurrency:
            return None
        return self._pacer.wait_s(tokens, self.clock.now())

    async def _wait(self, event: asyncio.Event, wait_s: float | None) -> None:
        # An answer that comes meanwhile may prove that there is room, or that there is none.
        waits: list[asyncio.Future[Any]] = [asyncio.ensure_future(event.wait())]
        if wait_s is not None:
            waits.append(asyncio.ensure_future(self.clock.sleep(wait_s)))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def _wake_first(self) -> None:
        with self._lock:
            if self._queue:
                self._queue[0].wake()
