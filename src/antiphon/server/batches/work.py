"""The work on one batch, from the lease to the end: validate, answer what is not finished yet, write the files."""

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

import msgspec

from antiphon.batches import BatchLine, FinishedLine, InputCheck, StoredBatch
from antiphon.batches.store import now_ms
from antiphon.files.references import location_of
from antiphon.protocol.errors import ApiError
from antiphon.server.batches.answering import LineAnswers
from antiphon.server.batches.input_file import check_input, lines_of
from antiphon.server.batches.lines import not_executed
from antiphon.server.batches.output_files import OutputFiles
from antiphon.server.batches.tools import BatchTools
from antiphon.server.batches.upstream_answers import UpstreamAnswers
from antiphon.server.batches.upstream_batches import NoBatchesError
from antiphon.server.logs import log
from antiphon.webhooks import EventType

_TRY_AGAIN_AFTER_S = 5.0
_PER_COMMIT = 500
_EVENTS: Mapping[str, EventType] = {
    "completed": "batch.completed",
    "expired": "batch.expired",
    "cancelled": "batch.cancelled",
    "failed": "batch.failed",
}
_OVER = tuple(_EVENTS)
_EXPIRED = "This request could not be executed before the completion window expired."
_FIRST_FAULT = 500


class BatchWork:
    """Belongs to the process that has the lease of ``batch``."""

    def __init__(self, tools: BatchTools, batch: StoredBatch) -> None:
        self._tools = tools
        self._store = tools.store
        self._batch = batch
        self._output = OutputFiles(tools.store, tools.files)
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Work until the batch is over. ``LeaseLost`` if another process took it; cancelling leaves it to another."""
        renewal = asyncio.create_task(self._renew())
        work = asyncio.create_task(self._steps())
        try:
            await asyncio.wait({renewal, work}, return_when=asyncio.FIRST_COMPLETED)
            (work if work.done() else renewal).result()
        finally:
            for task in (renewal, work):
                task.cancel()
            await asyncio.gather(renewal, work, return_exceptions=True)

    async def pieces(self) -> AsyncGenerator[bytes]:
        """Yield the bytes of the input file, which the batch keeps until it is over."""
        digest = self._batch.detail.input_digest
        location = None
        if digest is not None:
            async with self._store.database.reading() as connection:
                location = await location_of(connection, digest)
        if location is None:
            message = f"No such File object: {self._batch.detail.input_file_id}"
            raise ApiError(400, message, param="input_file_id", code="invalid_file_id")
        async with aclosing(self._tools.files.blobs.read(location)) as pieces:
            async for piece in pieces:
                yield piece

    async def _renew(self) -> None:
        """Keep the lease, and see when the batch is to stop: somebody cancels it, or its time is over."""
        while True:
            await asyncio.sleep(self._store.lease_s / 4)
            try:
                current = await self._store.renew(self._batch.id)
            except ApiError as error:
                log.warning("the lease of a batch was not renewed", batch=self._batch.id, error=error.message)
                continue
            if current.status == "cancelling" or self._is_expired():
                self._stop.set()

    def _is_expired(self) -> bool:
        return now_ms() >= self._batch.expires_at_ms

    async def _steps(self) -> None:
        if self._batch.status == "validating":
            await self._validate()
        if self._batch.status in {"in_progress", "cancelling"}:
            await self._answer_until_stopped()
            await self._begin_to_end()
        while self._batch.status not in _OVER:
            try:
                self._batch = await self._output.end(self._batch)
            except ApiError as error:
                log.warning("the files of a batch were not written", batch=self._batch.id, error=error.message)
                await asyncio.sleep(_TRY_AGAIN_AFTER_S)
        log.info("batch", batch=self._batch.id, status=self._batch.status, requests=self._batch.num_total)
        await self._tools.webhooks.announce(_EVENTS[self._batch.status], self._batch.id, await self._key_name())

    async def _key_name(self) -> str:
        try:
            return (await self._tools.accounts.principal_of(self._batch.account)).name
        except ApiError:
            # The key has ended; only endpoints for all keys hear of its batches.
            return self._batch.account

    async def _validate(self) -> None:
        check = InputCheck(
            self._batch.detail.endpoint,
            max_lines=self._tools.settings.max_lines,
            max_line_bytes=self._tools.max_line_bytes,
        )
        try:
            await check_input(self, check, self._tools.max_line_bytes)
        except ApiError as error:
            self._note(check, error, None)
        if check.model is not None and not check.errors:
            try:
                principal = await self._tools.accounts.principal_of(self._batch.account)
                self._tools.access.require_model(principal, check.model)
            except ApiError as error:
                named = ApiError(error.status, error.message, param="body.model", code=error.code)
                self._note(check, named, 1)
        status = "failed" if check.errors else "in_progress"
        detail = msgspec.structs.replace(
            self._batch.detail, errors=tuple(check.errors), model=check.model, times={status: int(time.time())}
        )
        batch = msgspec.structs.replace(self._batch, status=status, detail=detail)
        if status == "failed":
            await self._output.fail(batch)
            self._batch = batch
        else:
            self._batch = await self._store.advance(msgspec.structs.replace(batch, num_total=check.num_lines))

    def _note(self, check: InputCheck, error: ApiError, line: int | None) -> None:
        """Make an error one of the batch's own; one of the server itself is raised, and the batch tried again."""
        if error.status >= _FIRST_FAULT:
            raise error
        check.add_error(error, line)

    async def _answer_until_stopped(self) -> None:
        """Answer what is not finished, until it is all finished, or the batch is cancelled or expired."""
        if self._batch.status == "cancelling" or self._is_expired():
            self._stop.set()
        if await self._is_answered_upstream() or self._stop.is_set():
            return
        answering = asyncio.create_task(self._answer())
        stop = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({answering, stop}, return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                answering.result()
        finally:
            for task in (answering, stop):
                task.cancel()
            await asyncio.gather(answering, stop, return_exceptions=True)

    async def _is_answered_upstream(self) -> bool:
        """Let the model's upstream answer, if it has one that has batches; return whether it did."""
        detail = self._batch.detail
        if detail.upstream is None and (detail.is_line_by_line or self._stop.is_set()):
            return False
        destination = self._tools.upstreams.destination(detail.model or "")
        if destination is None:
            return False
        try:
            async with aclosing(await self._lines()) as lines:
                await UpstreamAnswers(self._tools, self._batch, destination, self._stop).run(lines)
        except NoBatchesError as error:
            log.info("requests of a batch are sent one by one", batch=self._batch.id, reason=str(error))
            detail = msgspec.structs.replace(detail, is_line_by_line=True)
            self._batch = await self._store.advance(msgspec.structs.replace(self._batch, detail=detail))
            return False
        return True

    async def _answer(self) -> None:
        async with aclosing(await self._lines()) as lines:
            await LineAnswers(self._tools, self._batch).run(lines)

    async def _lines(self) -> AsyncGenerator[BatchLine]:
        """Return the lines that are not finished."""
        done = await self._store.finished_numbers(self._batch.id)
        return lines_of(self, self._batch.detail.endpoint, done, self._tools.max_line_bytes)

    async def _begin_to_end(self) -> None:
        """Write how the batch will end. What was in flight counts as not executed."""
        self._batch = batch = await self._store.renew(self._batch.id)
        is_complete = batch.num_completed + batch.num_failed >= batch.num_total
        if batch.status == "cancelling":
            ends_as, status, times = "cancelled", batch.status, {}
        else:
            ends_as = "completed" if is_complete else "expired"
            status, times = "finalizing", {"finalizing": int(time.time())}
            if not is_complete:
                self._batch = batch = await self._expire_rest(batch)
        detail = msgspec.structs.replace(batch.detail, ends_as=ends_as, times=batch.detail.times | times)
        self._batch = await self._store.advance(msgspec.structs.replace(batch, status=status, detail=detail))

    async def _expire_rest(self, batch: StoredBatch) -> StoredBatch:
        """Give every request that was not executed its line in the error file."""
        answers = LineAnswers(self._tools, batch)
        done = await self._store.finished_numbers(batch.id)
        group: list[FinishedLine] = []
        async with aclosing(lines_of(self, batch.detail.endpoint, done, self._tools.max_line_bytes)) as lines:
            async for line in lines:
                group.append(not_executed(line, "batch_expired", _EXPIRED))
                if len(group) >= _PER_COMMIT:
                    await answers.commit(group)
                    group = []
        await answers.commit(group)
        return answers.batch
