"""Batches for a model of another API: given to that API's own batches, and fetched when they are over.

A batch carries this server's id in its metadata there, so that a server that was killed between its creation and the next
commit finds it again instead of paying for a second one.
"""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import msgspec

from antiphon.backends.base import Destination, ForwardingBackend
from antiphon.batches import StoredBatch
from antiphon.batches.input_lines import LineSplitter
from antiphon.batches.store import UpstreamBatch
from antiphon.protocol.errors import ApiError
from antiphon.protocol.forward import ForwardRequest

Json = dict[str, Any]
_BOUNDARY = "antiphon-batch-7f3c5b1e9a"
_JSON = {"content-type": "application/json"}
_KEY = "antiphon_batch_id"
_HAVE_PASSED = {408, 429}
"""Statuses below 500 that say nothing about whether the API has batches."""
_FIRST_ERROR, _FIRST_FAULT = 400, 500
_MAX_LINE_BYTES = 64 * 1024 * 1024
_encode = msgspec.json.Encoder().encode


class NoBatchesError(Exception):
    """The upstream has no batches, or refuses this one: its requests are sent one by one."""


class UpstreamBatches:
    """Speaks to the upstreams of ``backend``. Every method may raise ``ApiError`` for an upstream that does not answer."""

    def __init__(self, backend: ForwardingBackend | None) -> None:
        self._backend = backend if backend is not None and backend.upstreams else None

    def destination(self, model: str) -> Destination | None:
        """Return the upstream that has a model, None for one of this machine."""
        return None if self._backend is None else self._backend.destination(model)

    async def begin(
        self, batch: StoredBatch, upstream: str, content: AsyncGenerator[bytes], num_bytes: int
    ) -> UpstreamBatch:
        """Begin a batch of ``content`` at an upstream, or find the one that was begun before. Raises ``NoBatchesError``."""
        listed: list[Json] = (await self._json(upstream, "GET", "/batches?limit=100")).get("data") or []
        for known in listed:
            metadata: Json = known.get("metadata") or {}
            if metadata.get(_KEY) == batch.id:
                return UpstreamBatch(upstream=upstream, file_id=known["input_file_id"], batch_id=known["id"])
        file = await self._upload(upstream, content, num_bytes)
        wanted = {
            "input_file_id": file["id"],
            "endpoint": batch.detail.endpoint,
            "completion_window": batch.detail.completion_window,
            "metadata": {_KEY: batch.id},
        }
        made = await self._json(upstream, "POST", "/batches", body=_encode(wanted), headers=_JSON)
        return UpstreamBatch(upstream=upstream, file_id=file["id"], batch_id=made["id"])

    async def look(self, there: UpstreamBatch) -> Json:
        """Return the batch as the upstream shows it."""
        return await self._json(there.upstream, "GET", f"/batches/{there.batch_id}")

    async def cancel(self, there: UpstreamBatch) -> None:
        """Ask the upstream to stop the batch."""
        await self._json(there.upstream, "POST", f"/batches/{there.batch_id}/cancel", body=b"")

    async def results(self, there: UpstreamBatch, shown: Json) -> AsyncGenerator[Json]:
        """Yield the lines of the upstream's output and error files."""
        for name in ("output_file_id", "error_file_id"):
            file_id = shown.get(name)
            if file_id:
                async with aclosing(self._lines(there.upstream, file_id)) as lines:
                    async for line in lines:
                        yield line

    async def _lines(self, upstream: str, file_id: str) -> AsyncGenerator[Json]:
        splitter = LineSplitter(_MAX_LINE_BYTES)
        async with aclosing(self._send(upstream, "GET", f"/files/{file_id}/content")) as pieces:
            async for piece in pieces:
                for _, line in splitter.feed(piece):
                    if line:
                        yield msgspec.json.decode(line)
        for _, line in splitter.end():
            if line:
                yield msgspec.json.decode(line)

    async def _upload(self, upstream: str, content: AsyncGenerator[bytes], num_bytes: int) -> Json:
        disposition = "Content-Disposition: form-data; name"
        head = (
            f'--{_BOUNDARY}\r\n{disposition}="purpose"\r\n\r\nbatch\r\n'
            f'--{_BOUNDARY}\r\n{disposition}="file"; filename="batch.jsonl"\r\n'
            "Content-Type: application/jsonl\r\n\r\n"
        ).encode()
        tail = f"\r\n--{_BOUNDARY}--\r\n".encode()

        async def form() -> AsyncGenerator[bytes]:
            yield head
            async for piece in content:
                yield piece
            yield tail

        headers = {"content-type": f"multipart/form-data; boundary={_BOUNDARY}"}
        size = len(head) + num_bytes + len(tail)
        return await self._json(upstream, "POST", "/files", body=form(), headers=headers, num_bytes=size)

    async def _json(
        self,
        upstream: str,
        method: str,
        path: str,
        *,
        body: bytes | AsyncGenerator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        num_bytes: int | None = None,
    ) -> Json:
        sent = self._send(upstream, method, path, body=body, headers=headers, num_bytes=num_bytes)
        async with aclosing(sent) as pieces:
            text = b"".join([piece async for piece in pieces])
        try:
            return msgspec.json.decode(text, type=Json)
        except msgspec.DecodeError as error:
            raise NoBatchesError(f"{method} {path} is not answered with JSON") from error

    async def _send(
        self,
        upstream: str,
        method: str,
        path: str,
        *,
        body: bytes | AsyncGenerator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        num_bytes: int | None = None,
    ) -> AsyncGenerator[bytes]:
        assert self._backend is not None
        request = ForwardRequest(
            method=method, path=path, headers=dict(headers or {}), body=body,
            num_bytes=len(body) if isinstance(body, bytes) else num_bytes,
        )  # fmt: skip
        answer = await self._backend.forward(upstream, request)
        async with aclosing(answer):
            if answer.status >= _FIRST_ERROR:
                text = b"".join([piece async for piece in answer])[:500].decode("utf-8", "replace")
                message = f"The upstream '{upstream}' answered {method} {path} with {answer.status}: {text}"
                if answer.status >= _FIRST_FAULT or answer.status in _HAVE_PASSED:
                    raise ApiError(502, message, type="server_error", code="upstream_unreachable")
                raise NoBatchesError(message)
            async for piece in answer:
                yield piece
