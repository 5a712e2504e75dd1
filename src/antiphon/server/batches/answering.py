"""Answers the lines of a batch that are not finished, several at once, and commits them in groups."""

import asyncio
import itertools
from collections.abc import AsyncIterable

from antiphon.batches import BatchLine, FinishedLine, StoredBatch
from antiphon.protocol.errors import ApiError
from antiphon.server.batches.tools import BatchTools
from antiphon.server.logs import log

_PER_COMMIT = 256
"""Finished lines that one transaction writes; more gather while it does."""
_TRY_AGAIN_AFTER_S = 1.0


class LineAnswers:
    """Owns the tasks of one batch while ``run`` runs. ``batch`` is the batch with what is committed."""

    def __init__(self, tools: BatchTools, batch: StoredBatch) -> None:
        self._tools = tools
        self.batch = batch
        size = tools.settings.concurrency
        self._waiting: asyncio.Queue[BatchLine | None] = asyncio.Queue(size)
        self._finished: asyncio.Queue[FinishedLine | None] = asyncio.Queue(_PER_COMMIT)

    async def run(self, lines: AsyncIterable[BatchLine]) -> StoredBatch:
        """Answer ``lines`` and return the batch with all of them. ``LeaseLost``; what the storage raises for ``lines``."""
        async with asyncio.TaskGroup() as group:
            committing = group.create_task(self._commit_all())
            working = [group.create_task(self._work()) for _ in range(self._tools.settings.concurrency)]
            async for line in lines:
                await self._waiting.put(line)
            for _ in working:
                await self._waiting.put(None)
            await asyncio.wait(working)
            await self._finished.put(None)
            await committing
        return self.batch

    async def _work(self) -> None:
        while (line := await self._waiting.get()) is not None:
            await self._finished.put(await self._answered(line))

    async def _answered(self, line: BatchLine) -> FinishedLine:
        for attempt in itertools.count():
            async with self._tools.slots:
                answer = await self._tools.lines.run(self.batch.detail.endpoint, line, self.batch.account)
            pause_s = answer.pause_s(attempt)
            if pause_s is None:
                return answer.finished(line)
            await asyncio.sleep(pause_s)
        raise AssertionError

    async def _commit_all(self) -> None:
        is_last = False
        while not is_last:
            group = [await self._finished.get()]
            while len(group) < _PER_COMMIT and not self._finished.empty():
                group.append(self._finished.get_nowait())
            is_last = None in group
            await self.commit([line for line in group if line is not None])

    async def commit(self, lines: list[FinishedLine]) -> None:
        """Commit lines, whatever becomes of the database meanwhile. ``LeaseLost`` if another process works on the batch."""
        while lines:
            try:
                self.batch = await self._tools.store.finish(self.batch, lines)
            except ApiError as error:
                log.warning("lines of a batch were not written", batch=self.batch.id, error=error.message)
                await asyncio.sleep(_TRY_AGAIN_AFTER_S)
                lines = await self._missing(lines)
            else:
                return

    async def _missing(self, lines: list[FinishedLine]) -> list[FinishedLine]:
        """Return what is not in the journal: a commit may have worked although its confirmation was lost."""
        store = self._tools.store
        try:
            done = await store.finished_numbers(self.batch.id)
            self.batch = await store.renew(self.batch.id)
        except ApiError:
            return lines
        return [line for line in lines if line.number not in done]
