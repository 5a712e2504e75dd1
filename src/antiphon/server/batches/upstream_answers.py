"""Lets an upstream's own batch answer the lines of a batch that are not finished."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing, suppress
from typing import Any, cast

import msgspec

from antiphon.accounts import BatchBilling, Kind, Outcome
from antiphon.accounts.request import Request
from antiphon.backends.base import Destination
from antiphon.batches import BatchLine, FinishedLine, StoredBatch
from antiphon.batches.store import UpstreamBatch
from antiphon.protocol.errors import ApiError
from antiphon.protocol.events import Usage
from antiphon.server.batches.answering import LineAnswers
from antiphon.server.batches.lines import not_executed
from antiphon.server.batches.tools import BatchTools
from antiphon.server.batches.upstream_batches import NoBatchesError
from antiphon.server.logs import log

Json = dict[str, Any]
_OVER = {"completed", "failed", "expired", "cancelled"}
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 60.0
_PER_COMMIT = 256
_FIRST_ERROR = 400
_KINDS: dict[str, Kind] = {"/v1/embeddings": "embedding", "/v1/completions": "completion"}
_encode = msgspec.json.Encoder().encode


class UpstreamAnswers:
    """Owns one batch's way to ``destination`` and back. ``stop`` is set when the batch is cancelled or expired."""

    def __init__(self, tools: BatchTools, batch: StoredBatch, destination: Destination, stop: asyncio.Event) -> None:
        self._tools = tools
        self._batch = batch
        self._destination = destination
        self._stop = stop

    async def run(self, lines: AsyncIterable[BatchLine]) -> None:
        """Answer ``lines``. Raises ``NoBatchesError`` if the upstream has no batches; ``LeaseLost``."""
        waiting = {line.custom_id: line async for line in lines}
        if not waiting:
            return
        there = self._batch.detail.upstream
        if there is None:
            there = await self._begin(list(waiting.values()))
            detail = msgspec.structs.replace(self._batch.detail, upstream=there)
            self._batch = await self._tools.store.advance(msgspec.structs.replace(self._batch, detail=detail))
        is_told = False
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                shown = await self._tools.upstreams.look(there)
                if shown.get("status") in _OVER:
                    await self._fetch(shown, waiting)
                    return
                if self._stop.is_set() and not is_told:
                    await self._tools.upstreams.cancel(there)
                    is_told = True
            except (ApiError, NoBatchesError) as error:
                log.warning("the batch of an upstream cannot be seen", batch=self._batch.id, error=str(error))
            if self._stop.is_set():
                await asyncio.sleep(_FIRST_PAUSE_S)
                continue
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _begin(self, lines: list[BatchLine]) -> UpstreamBatch:
        """Write the lines with the upstream's name of the model, and begin a batch of them there."""
        blobs = self._tools.files.blobs
        async with blobs.writer() as writer:
            for line in lines:
                await writer.write(self._renamed(line) + b"\n")
            written = await writer.commit()
        try:
            async with aclosing(blobs.read(written.location)) as content:
                return await self._tools.upstreams.begin(
                    self._batch, self._destination.upstream, content, written.num_bytes
                )
        finally:
            await asyncio.shield(blobs.remove(written.location))

    def _renamed(self, line: BatchLine) -> bytes:
        body: Json = msgspec.json.decode(line.body)
        body |= {"model": self._destination.model or body["model"]}
        url = self._batch.detail.endpoint
        return _encode({"custom_id": line.custom_id, "method": "POST", "url": url, "body": body})

    async def _fetch(self, shown: Json, waiting: dict[str, BatchLine]) -> None:
        """Take over what the upstream has finished; with a failed batch, say so in every line."""
        there = self._batch.detail.upstream
        assert there is not None
        answers = LineAnswers(self._tools, self._batch)
        group: list[FinishedLine] = []
        async with aclosing(self._finished(shown, waiting)) as finished:
            async for line in finished:
                group.append(line)
                if len(group) >= _PER_COMMIT:
                    await answers.commit(group)
                    group = []
        await answers.commit(group)

    async def _finished(self, shown: Json, waiting: dict[str, BatchLine]) -> AsyncGenerator[FinishedLine]:
        there = self._batch.detail.upstream
        assert there is not None
        principal = await self._tools.accounts.principal_of(self._batch.account)
        request = Request(
            principal=principal,
            model=self._batch.detail.model or "",
            kind=_KINDS.get(self._batch.detail.endpoint, "chat"),
        )
        async with aclosing(self._tools.upstreams.results(there, shown)) as results:
            async for result in results:
                line = waiting.get(result.get("custom_id", ""))
                # An upstream's "expired" or "cancelled" is said of the whole batch, in this server's words.
                if line is None or not result.get("response"):
                    continue
                del waiting[line.custom_id]
                yield self._charged(line, result, request)
        if shown["status"] == "failed":
            listed: Json = shown.get("errors") or {}
            errors: list[Json] = listed.get("data") or [{}]
            reason = errors[0].get("message") or "it gave no reason"
            message = f"The upstream's batch failed ({errors[0].get('code')}): {reason}"
            for line in waiting.values():
                yield not_executed(line, "upstream_batch_failed", message)

    def _charged(self, line: BatchLine, result: Json, request: Request) -> FinishedLine:
        response: Json = result["response"]
        status = int(response.get("status_code") or 0)
        billing = BatchBilling(self._tools.settings.price_factor)
        used = _usage(response.get("body"))
        outcome = Outcome(
            request_id=str(response.get("request_id") or result.get("id") or ""),
            started_at=time.time(),
            duration_s=0.0,
            status=status,
            model=self._destination.model if used is not None else None,
            usage=used or Usage(),
            error_code=None if status < _FIRST_ERROR else "upstream_error",
        )
        self._tools.accounts.record(request, outcome, billing=billing)
        return FinishedLine(line.number, status >= _FIRST_ERROR, _encode(result), tuple(billing.rows))


def _usage(body: Any) -> Usage | None:
    """Return the usage that an answer reports, in the words of any endpoint."""
    given: Any = cast("Json", body).get("usage") if isinstance(body, dict) else None
    if not isinstance(given, dict):
        return None
    counts = cast("Json", given)
    prompt = counts.get("prompt_tokens", counts.get("input_tokens", 0))
    completion = counts.get("completion_tokens", counts.get("output_tokens", 0))
    inputs: Json = counts.get("prompt_tokens_details") or counts.get("input_tokens_details") or {}
    outputs: Json = counts.get("completion_tokens_details") or counts.get("output_tokens_details") or {}
    return Usage(
        int(prompt or 0), int(completion or 0), int(inputs.get("cached_tokens") or 0),
        int(outputs.get("reasoning_tokens") or 0),
    )  # fmt: skip
