"""The pacer with a clock: where concurrent calls wait for their turn, first come, first served."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

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


class Gate:
    """Lets at most ``concurrency`` calls through at a time, and none before the pacer allows it."""

    def __init__(self, pacer: Pacer, concurrency: int, clock: Clock | None = None) -> None:
        self.pacer = pacer
        self.clock = clock or SystemClock()
        self._places = asyncio.Semaphore(concurrency)
        self._turn = asyncio.Lock()
        self._changed = asyncio.Event()

    @asynccontextmanager
    async def passage(self, tokens: int) -> AsyncGenerator[Passage]:
        """Wait for a turn, then hold a place while the call runs; its reservation is settled on the way out.

        Raises RequestTooLargeError, at once, when the call can never fit the limit.
        """
        async with self._places:
            async with self._turn:
                await self._wait(tokens)
                passage = Passage(self.pacer.admit(tokens, self.clock.now()))
            try:
                yield passage
            finally:
                now = self.clock.now()
                self.pacer.settle(passage.ticket, now, used_tokens=passage.used_tokens, reported=passage.reported)
                if passage.hold_s > 0:
                    self.pacer.hold(passage.hold_s, now)
                self._changed.set()

    def statistics(self) -> PacerStatistics:
        """Return an immutable picture of the budgets."""
        return self.pacer.statistics(self.clock.now())

    async def _wait(self, tokens: int) -> None:
        while (wait_s := self.pacer.wait_s(tokens, self.clock.now())) != 0.0:
            # An answer that comes meanwhile may prove that there is room, or that there is none.
            self._changed.clear()
            answered = asyncio.ensure_future(self._changed.wait())
            waits = [answered] if wait_s is None else [answered, asyncio.ensure_future(self.clock.sleep(wait_s))]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
