"""The plan of a run through the batch interface: which requests are in which batch, and how far each has come.

What was sent to whom is on disk before the answer counts: the plan of a batch (which requests, in what order) before its
file is uploaded, the file's id before the batch is made, the batch's id before it is waited for. A run that was killed
between two of these finds the file or the batch by a name that only this plan has, so that no request is billed twice.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from antiphon.toolkit.bulk.batchfile import Request
from antiphon.toolkit.errors import JournalError

MAX_REQUESTS = 50_000
MAX_BYTES = 200 * 1024 * 1024
Status = Literal["planned", "uploaded", "sent", "done"]


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
