"""Works on the batches of the database that no other process works on."""

import asyncio
import contextlib
import time
from collections.abc import Mapping

from antiphon.batches import LeaseLost, StoredBatch
from antiphon.server.batches.tools import BatchTools
from antiphon.server.batches.work import BatchWork
from antiphon.server.logs import log
from antiphon.server.request.call import Handler

_AT_ONCE = 8
"""Batches that one process works on together."""
_LOOK_EVERY_S = 1.0
_LEAVE_ALONE_S = 10.0
"""How long this process leaves a batch alone on which it failed."""
_FORGET_EVERY_S = 3600.0


class BatchRunner:
    """Belongs to one event loop. ``start`` begins a task that ``aclose`` ends."""

    def __init__(self, tools: BatchTools) -> None:
        self._tools = tools
        self._works: dict[str, asyncio.Task[None]] = {}
        self._failed_at: dict[str, float] = {}
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._forgot_at = 0.0

    def answer_with(self, handlers: Mapping[str, Handler]) -> None:
        """Answer requests with these handlers, by endpoint."""
        self._tools.lines.answer_with(handlers)

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="antiphon-batches")

    def look(self) -> None:
        """Look for work now: a batch was created."""
        self._news.set()

    async def _run(self) -> None:
        while True:
            try:
                await self._take()
                await self._forget()
            except Exception:  # noqa: BLE001 - whatever failed is tried again
                log.exception("no batch could be taken")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), _LOOK_EVERY_S)
            self._news.clear()

    async def _take(self) -> None:
        now = time.monotonic()
        self._failed_at = {name: at for name, at in self._failed_at.items() if now - at < _LEAVE_ALONE_S}
        while len(self._works) < _AT_ONCE:
            batch = await self._tools.store.claim([*self._works, *self._failed_at])
            if batch is None:
                return
            self._works[batch.id] = asyncio.create_task(self._work(batch))

    async def _work(self, batch: StoredBatch) -> None:
        try:
            await BatchWork(self._tools, batch).run()
        except LeaseLost:
            log.warning("another process works on a batch", batch=batch.id)
        except Exception:  # noqa: BLE001 - the batch is tried again by this process or another
            log.exception("fault in a batch", batch=batch.id)
            self._failed_at[batch.id] = time.monotonic()
            with contextlib.suppress(Exception):
                await self._tools.store.let_go(batch.id)
        finally:
            self._works.pop(batch.id, None)
            self._news.set()

    async def _forget(self) -> None:
        if time.monotonic() - self._forgot_at >= _FORGET_EVERY_S or not self._forgot_at:
            self._forgot_at = time.monotonic()
            await self._tools.store.forget()

    async def aclose(self) -> None:
        """End the work, and let other processes go on with it at once."""
        tasks = [task for task in (self._task, *self._works.values()) if task is not None]
        names = list(self._works)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for name in names:
            with contextlib.suppress(Exception):
                await self._tools.store.let_go(name)
