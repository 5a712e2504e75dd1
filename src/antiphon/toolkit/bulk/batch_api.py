"""The batch interface of the API: files of requests that are answered within a day, at half the price."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Any, cast

from antiphon.toolkit.bulk.batch_plan import BatchPart
from antiphon.toolkit.bulk.batchfile import Request, Result, as_object
from antiphon.toolkit.clients import Connection
from antiphon.toolkit.errors import BulkError

_WINDOW = "24h"
_LISTED = 100
_MAX_PAGES = 20
ENDED = {"completed", "failed", "expired", "cancelled"}


class BatchApi:
    """``/files`` and ``/batches`` of one server."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def upload(self, part: BatchPart, requests: Sequence[Request]) -> str:
        """Upload the part's requests, unless they are there already, and return the file's id."""
        async for found in self._listed("/files?purpose=batch&"):
            if found.get("filename") == f"{part.name}.jsonl":
                return str(found["id"])
        lines = await asyncio.to_thread(_lines, requests)
        made = await self._connection.call(
            lambda client: client.files.create, {"file": (f"{part.name}.jsonl", lines), "purpose": "batch"}
        )
        return str(made.id)

    async def create(self, part: BatchPart) -> str:
        """Make the part's batch, unless it is there already, and return its id."""
        async for found in self._listed("/batches?"):
            if as_object(found.get("metadata")).get("antiphon_batch") == part.name:
                return str(found["id"])
        arguments = {
            "input_file_id": part.file_id,
            "endpoint": part.url,
            "completion_window": _WINDOW,
            "metadata": {"antiphon_batch": part.name},
        }
        made = await self._connection.call(lambda client: client.batches.create, arguments)
        return str(made.id)

    async def look(self, part: BatchPart) -> dict[str, Any]:
        """Return the batch as it is now."""
        return as_object(await self._connection.get_json(f"/batches/{part.batch_id}"))

    async def results(self, batch: dict[str, Any]) -> dict[str, Result]:
        """Return the lines of the batch's output and error files by custom_id. A request without an answer has none."""
        found: dict[str, Result] = {}
        for name in ("output_file_id", "error_file_id"):
            if (file_id := batch.get(name)) is not None:
                content = await self._connection.call(lambda client: client.files.content, {"file_id": file_id})
                found |= await asyncio.to_thread(_results, content)
        return found

    async def _listed(self, path: str) -> AsyncGenerator[dict[str, Any]]:
        after = ""
        for _ in range(_MAX_PAGES):
            page = as_object(await self._connection.get_json(f"{path}limit={_LISTED}{after}"))
            entries = [as_object(entry) for entry in cast("list[Any]", page.get("data") or [])]
            for entry in entries:
                yield entry
            if not page.get("has_more") or not entries:
                return
            after = f"&after={entries[-1]['id']}"


def _lines(requests: Iterable[Request]) -> bytes:
    return "".join(f"{request.line()}\n" for request in requests).encode()


def _results(content: Any) -> dict[str, Result]:
    # Not splitlines(): it also cuts at separators that JSON has inside of its strings, such as U+2028.
    lines = (line for line in content.text.split("\n") if line.strip())
    return {(result := Result.from_record(json.loads(line))).custom_id: result for line in lines}


def refused(batch: dict[str, Any]) -> BulkError:
    """Return the error of a batch that the server refused as a whole."""
    errors = cast("list[Any]", as_object(batch.get("errors")).get("data") or [])
    why = "; ".join(str(as_object(each).get("message")) for each in errors[:3]) or "it does not say why"
    return BulkError(f"The server refuses the batch {batch.get('id')!r}: {why}", hint="fix the requests it names")
