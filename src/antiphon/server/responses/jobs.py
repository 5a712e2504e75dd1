"""Responses in the background: each a task of this process, whose events can be followed from any point.

The process renews the lease of what it runs. It also sees there what another process cancelled. What is over can still be
followed for a while, from memory.
"""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncGenerator, Coroutine
from typing import Any

from antiphon.protocol.errors import overloaded
from antiphon.server.logs import log
from antiphon.state import ResponseStore
from antiphon.state.responses import LEASE_S

_MAX_RUNNING = 256
_MAX_FOLLOWABLE = 256
_MAX_FOLLOWABLE_BYTES = 64 * 1024 * 1024
"""Of the events of responses that are over."""


class Job:
    """One background response. ``frames[n]`` is the event with ``sequence_number`` n."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.is_over = False
        self.num_bytes = 0
        self.task: asyncio.Task[None] | None = None
        self._news = asyncio.Condition()

    async def add(self, frames: list[bytes]) -> None:
        async with self._news:
            self.frames.extend(frames)
            self.num_bytes += sum(map(len, frames))
            self._news.notify_all()

    async def end(self) -> None:
        async with self._news:
            self.is_over = True
            self._news.notify_all()

    async def follow(self, after: int) -> AsyncGenerator[bytes]:
        """Yield every event whose number is above ``after``, those to come included."""
        position = after + 1
        while True:
            async with self._news:
                while not (self.is_over or len(self.frames) > position):
                    await self._news.wait()
                new = self.frames[position:]
                is_last = self.is_over
            for frame in new:
                yield frame
            position += len(new)
            if is_last and position >= len(self.frames):
                return


class Jobs:
    """All background responses of one process."""

    def __init__(self, store: ResponseStore) -> None:
        self._store = store
        self._running: dict[str, Job] = {}
        self._over: OrderedDict[str, Job] = OrderedDict()
        self._over_bytes = 0
        self._renewal: asyncio.Task[None] | None = None

    def find(self, response_id: str) -> Job | None:
        """Return a job of this process that runs, or ended lately."""
        return self._running.get(response_id) or self._over.get(response_id)

    def check_room(self) -> None:
        """Raise ``ApiError`` 503 if as many run as may."""
        if len(self._running) >= _MAX_RUNNING:
            raise overloaded(retry_after_s=5)

    def start(self, response_id: str, job: Job, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work`` as a task of its own; it feeds ``job``."""
        self._running[response_id] = job
        job.task = asyncio.create_task(self._run(response_id, job, work))
        if self._renewal is None or self._renewal.done():
            self._renewal = asyncio.create_task(self._renew())

    async def cancel(self, response_id: str) -> bool:
        """Stop a job of this process and wait for its end; False if none runs under that id."""
        job = self._running.get(response_id)
        if job is None or job.task is None:
            return False
        job.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({job.task})
        return True

    async def _run(self, response_id: str, job: Job, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception:  # noqa: BLE001 - the work reports its own errors; this is a fault of ours
            log.exception("fault in a background response", response_id=response_id)
        finally:
            self._running.pop(response_id, None)
            self._remember(response_id, job)
            await job.end()

    def _remember(self, response_id: str, job: Job) -> None:
        """Keep what is over; the oldest go first, by number and by size, the newest stays."""
        self._over[response_id] = job
        self._over_bytes += job.num_bytes
        while len(self._over) > 1 and (len(self._over) > _MAX_FOLLOWABLE or self._over_bytes > _MAX_FOLLOWABLE_BYTES):
            _, gone = self._over.popitem(last=False)
            self._over_bytes -= gone.num_bytes

    async def _renew(self) -> None:
        while self._running:
            await asyncio.sleep(LEASE_S / 3)
            try:
                ended = await self._store.renew(list(self._running))
            except Exception:  # noqa: BLE001 - the lease is longer than two such failures
                log.exception("the leases of background responses were not renewed")
                continue
            for response_id in ended:
                await self.cancel(response_id)

    async def aclose(self) -> None:
        """Stop every job."""
        if self._renewal is not None:
            self._renewal.cancel()
        for response_id in list(self._running):
            await self.cancel(response_id)
