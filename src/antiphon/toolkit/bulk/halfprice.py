"""The batch interface of the API: files of requests that are answered within a day, at half the price.

What was sent to whom is on disk before the answer counts: the plan of a batch (which requests, in what order) before its
file is uploaded, the file's id before the batch is made, the batch's id before it is waited for. A run that was killed
between two of these finds the file or the batch by a name that only this plan has, so that no request is billed twice.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from antiphon.toolkit.bulk.batchfile import Request, Result, as_object
from antiphon.toolkit.clients import Connection
from antiphon.toolkit.errors import BulkError, JournalError

MAX_REQUESTS = 50_000
MAX_BYTES = 200 * 1024 * 1024
_WINDOW = "24h"
_LISTED = 100
_MAX_PAGES = 20
Status = Literal["planned", "uploaded", "sent", "done"]
ENDED = {"completed", "failed", "expired", "cancelled"}


@dataclass(slots=True)
class BatchPart:
    """One batch: its requests by id with their fingerprints, and how far it has come.

    ``name`` finds its file and batch at the server.
    """

    name: str
    url: str
    requests: dict[str, str]
    status: Status = "planned"
    file_id: str | None = None
    batch_id: str | None = None


@dataclass(slots=True)
class BatchPlan:
    """The batches of a run, in a file next to its journal."""

    path: Path
    parts: list[BatchPart] = field(default_factory=list[BatchPart])

    @classmethod
    def load(cls, out: Path) -> BatchPlan:
        """Read the plan of the output file ``out``, empty if there is none. Raises JournalError if it is not one."""
        path = out.with_name(f"{out.name}.batches")
        try:
            parts = [BatchPart(**part) for part in json.loads(path.read_text(encoding="utf-8"))]
        except FileNotFoundError:
            return cls(path)
        except (ValueError, TypeError) as error:
            raise JournalError(
                f"{str(path)!r} cannot be read: {error}", hint="restore it, or name another output"
            ) from error
        return cls(path, parts)

    def ids(self, *, done: bool) -> set[str]:
        """Return the requests in batches whose answers are taken (``done``), or not yet taken."""
        return {name for part in self.parts if (part.status == "done") == done for name in part.requests}

    def require_same(self, requests: Iterable[Request]) -> None:
        """Raise JournalError for a request that changed since it was planned."""
        planned = {name: mark for part in self.parts if part.status != "done" for name, mark in part.requests.items()}
        for request in requests:
            if planned.get(request.custom_id, request.fingerprint) != request.fingerprint:
                raise JournalError(
                    f"The request {request.custom_id!r} is not the one that is in a batch under way",
                    hint="give the changed request a new custom_id, or name another output file",
                )

    def save(self) -> None:
        """Put the plan on disk, whole."""
        partial = self.path.with_name(f"{self.path.name}.part")
        with partial.open("w", encoding="utf-8") as file:
            json.dump([asdict(part) for part in self.parts], file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self.path)

    def add(self, requests: Iterable[Request]) -> None:
        """Plan batches for ``requests``: one URL each, at most 50,000 requests and 200 MiB."""
        open_parts: dict[str, tuple[BatchPart, int]] = {}
        for request in requests:
            size = len(request.line().encode()) + 1
            part, used = open_parts.get(request.url, (None, 0))
            if part is None or len(part.requests) >= MAX_REQUESTS or used + size > MAX_BYTES:
                part, used = BatchPart(f"antiphon-{uuid.uuid4().hex}", request.url, {}), 0
                self.parts.append(part)
            part.requests[request.custom_id] = request.fingerprint
            open_parts[request.url] = (part, used + size)
        self.save()


class BatchApi:
    """``/files`` and ``/batches`` of one server."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def upload(self, part: BatchPart, requests: Sequence[Request]) -> str:
        """Upload the part's requests, unless they are there already, and return the file's id."""
        async for found in self._listed("/files?purpose=batch&"):
            if found.get("filename") == f"{part.name}.jsonl":
                return str(found["id"])
        lines = "".join(f"{request.line()}\n" for request in requests).encode()
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
                found |= {result.custom_id: result for result in _results(content)}
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


def _results(content: Any) -> Iterator[Result]:
    return (Result.from_record(json.loads(line)) for line in content.text.splitlines() if line.strip())


def refused(batch: dict[str, Any]) -> BulkError:
    """Return the error of a batch that the server refused as a whole."""
    errors = cast("list[Any]", as_object(batch.get("errors")).get("data") or [])
    why = "; ".join(str(as_object(each).get("message")) for each in errors[:3]) or "it does not say why"
    return BulkError(f"The server refuses the batch {batch.get('id')!r}: {why}", hint="fix the requests it names")
