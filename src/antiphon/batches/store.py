"""Batches in the database: a row, a lease of the process that works on it, and a journal of the lines that are finished.

A line is finished in one transaction, which writes its result, its usage row and the counts of its batch. So whatever is
killed, each line is answered and billed once: a line that was in flight has neither result nor usage row, and is done again.
The transaction begins with the batch's row, under the owner's name: a process that has lost its lease changes nothing.
"""

import time
import zlib
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Literal

import msgspec
from sqlalchemy import delete, insert, select, update
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from antiphon.accounts.listing import Listing
from antiphon.accounts.schema import batch_results, batches
from antiphon.accounts.store_database import StoreDatabase
from antiphon.accounts.usage import UsageRow
from antiphon.accounts.usage_table import insert_rows
from antiphon.files.references import refer_again, release
from antiphon.protocol.paging import PageQuery

Json = dict[str, Any]
BatchStatus = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
]
_ACTIVE = ("validating", "in_progress", "cancelling", "finalizing")
_KEPT_FOR_MS = 180 * 86_400_000
_encode = msgspec.json.Encoder().encode


class LeaseLost(Exception):  # noqa: N818 - an event of the lease, not an error
    """Another process works on the batch, or it is over."""


class BatchUsage(msgspec.Struct, frozen=True):
    """Tokens of the lines that are finished."""

    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0

    def plus(self, rows: Sequence[UsageRow]) -> "BatchUsage":
        return BatchUsage(
            self.input_tokens + sum(row.prompt_tokens for row in rows),
            self.cached_tokens + sum(row.cached_tokens for row in rows),
            self.output_tokens + sum(row.completion_tokens for row in rows),
            self.reasoning_tokens + sum(row.reasoning_tokens for row in rows),
        )

    def value(self) -> Json:
        """Return it as the API shows it."""
        return {
            "input_tokens": self.input_tokens,
            "input_tokens_details": {"cached_tokens": self.cached_tokens},
            "output_tokens": self.output_tokens,
            "output_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
            "total_tokens": self.input_tokens + self.output_tokens,
        }


class UpstreamBatch(msgspec.Struct, frozen=True, kw_only=True):
    """The batch at an upstream that answers for this one."""

    upstream: str
    file_id: str
    batch_id: str


class BatchDetail(msgspec.Struct, frozen=True, kw_only=True):
    """What the row holds as JSON. ``input_digest`` is the content that the batch keeps until it is over; times in seconds."""

    endpoint: str
    input_file_id: str
    completion_window: str = "24h"
    input_digest: str | None = None
    metadata: dict[str, str] | None = None
    output_expires_after_s: int | None = None
    model: str | None = None
    errors: tuple[Json, ...] = ()
    output_file_id: str | None = None
    error_file_id: str | None = None
    ends_as: Literal["completed", "expired", "cancelled"] = "completed"
    times: dict[str, int] = {}
    usage: BatchUsage = BatchUsage()
    upstream: UpstreamBatch | None = None
    is_line_by_line: bool = False
    """Whether the upstream was found to have no batches of its own."""


class StoredBatch(msgspec.Struct, frozen=True, kw_only=True):
    """A batch."""

    id: str
    account: str
    created_at_ms: int
    expires_at_ms: int
    status: BatchStatus
    detail: BatchDetail
    cancelling_at_ms: int | None = None
    num_total: int = 0
    num_completed: int = 0
    num_failed: int = 0

    def value(self) -> Json:
        """Return it as the API shows it."""
        detail = self.detail
        names = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelled")
        times = {f"{name}_at": detail.times.get(name) for name in names}
        errors = {"object": "list", "data": list(detail.errors)} if detail.errors else None
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": detail.endpoint,
            "model": detail.model,
            "errors": errors,
            "input_file_id": detail.input_file_id,
            "completion_window": detail.completion_window,
            "status": self.status,
            "output_file_id": detail.output_file_id,
            "error_file_id": detail.error_file_id,
            "created_at": self.created_at_ms // 1000,
            "expires_at": self.expires_at_ms // 1000,
            **times,
            "cancelling_at": None if self.cancelling_at_ms is None else self.cancelling_at_ms // 1000,
            "request_counts": {
                "total": self.num_total,
                "completed": self.num_completed,
                "failed": self.num_failed,
            },
            "usage": detail.usage.value(),
            "metadata": detail.metadata,
        }


class FinishedLine(msgspec.Struct, frozen=True):
    """A line that was answered: ``result`` is its line of the output or error file; ``rows`` its usage row, if it has one."""

    number: int
    is_error: bool
    result: bytes
    rows: tuple[UsageRow, ...] = ()


class BatchStore:
    """Belongs to one event loop. ``owner`` is this process's name for its leases, which last ``lease_s``."""

    def __init__(self, engine: AsyncEngine, owner: str, *, lease_s: float) -> None:
        self.database = StoreDatabase(engine, "database of batches")
        self.owner = owner
        self.lease_s = lease_s

    async def create(self, batch: StoredBatch) -> StoredBatch:
        """Write a new batch, which keeps the content of its input until it is over."""
        detail = batch.detail
        async with self.database.writing() as connection:
            if detail.input_digest is not None and not await refer_again(connection, detail.input_digest):
                batch = msgspec.structs.replace(batch, detail=msgspec.structs.replace(detail, input_digest=None))
            row = msgspec.structs.asdict(batch) | {"detail": _encode(batch.detail), "owner": None, "lease_until_ms": 0}
            await connection.execute(insert(batches).values(row))
        return batch

    async def find(self, batch_id: str, account: str | None = None) -> StoredBatch | None:
        """Return a batch; with ``account`` None for another's."""
        wanted = batches.c.id == batch_id
        if account is not None:
            wanted &= batches.c.account == account
        async with self.database.reading() as connection:
            row = (await connection.execute(select(batches).where(wanted))).mappings().one_or_none()
        return None if row is None else _stored(row)

    async def page(self, account: str, query: PageQuery) -> tuple[list[StoredBatch], bool]:
        """Return the batches of ``account`` that ``query`` names, and whether there are more. ``ApiError`` 400 for a bad cursor."""
        whole = select(batches).where(batches.c.account == account)
        listing = Listing(whole, [batches.c.created_at_ms, batches.c.id], batches.c.id, query)
        async with self.database.reading() as connection:
            rows, has_more = await listing.page(connection)
        return [_stored(row) for row in rows], has_more

    async def cancel(self, batch: StoredBatch) -> bool:
        """Ask for the end of a batch; False if it is over or about to be."""
        wanted = (batches.c.id == batch.id) & batches.c.status.in_(("validating", "in_progress"))
        async with self.database.writing() as connection:
            change = update(batches).where(wanted).values(status="cancelling", cancelling_at_ms=now_ms())
            return (await connection.execute(change)).rowcount > 0

    async def claim(self, but: Sequence[str] = ()) -> StoredBatch | None:
        """Take the oldest batch that nobody works on; None if there is none."""
        free = batches.c.status.in_(_ACTIVE) & (batches.c.lease_until_ms < now_ms()) & batches.c.id.not_in(but)
        async with self.database.writing() as connection:
            oldest = select(batches.c.id).where(free).order_by(batches.c.created_at_ms, batches.c.id).limit(1)
            batch_id: str | None = (await connection.execute(oldest)).scalar()
            if batch_id is None:
                return None
            taken = update(batches).where(free & (batches.c.id == batch_id))
            if not (await connection.execute(taken.values(**self._lease()))).rowcount:
                return None
            row = (await connection.execute(select(batches).where(batches.c.id == batch_id))).mappings().one()
            return _stored(row)

    async def renew(self, batch_id: str) -> StoredBatch:
        """Say that this process still works on a batch; return it as it is now. ``LeaseLost`` if another does."""
        async with self.database.writing() as connection:
            await self._require(connection, batch_id, self._lease())
            row = (await connection.execute(select(batches).where(batches.c.id == batch_id))).mappings().one()
            return _stored(row)

    async def let_go(self, batch_id: str) -> None:
        """End the lease, so that another process can take the batch at once."""
        mine = (batches.c.id == batch_id) & (batches.c.owner == self.owner)
        async with self.database.writing() as connection:
            await connection.execute(update(batches).where(mine).values(owner=None, lease_until_ms=0))

    async def advance(self, batch: StoredBatch) -> StoredBatch:
        """Write a new status and detail. A request to cancel that came meanwhile is kept. ``LeaseLost``."""
        async with self.database.writing() as connection:
            await self._require(connection, batch.id, self._lease())
            now = (await connection.execute(select(batches).where(batches.c.id == batch.id))).mappings().one()
            if now["status"] == "cancelling" and batch.status == "in_progress":
                batch = msgspec.structs.replace(batch, status="cancelling", cancelling_at_ms=now["cancelling_at_ms"])
            values = {"status": batch.status, "num_total": batch.num_total, "detail": _encode(batch.detail)}
            await connection.execute(update(batches).where(batches.c.id == batch.id).values(values))
        return batch

    async def finish(self, batch: StoredBatch, lines: Sequence[FinishedLine]) -> StoredBatch:
        """Write finished lines, their usage and the counts, or none of it. ``LeaseLost`` if another process works on it."""
        results = [
            {"batch_id": batch.id, "line": each.number, "is_error": each.is_error, "result": zlib.compress(each.result)}
            for each in lines
        ]
        rows = [row for each in lines for row in each.rows]
        num_failed = sum(each.is_error for each in lines)
        detail = msgspec.structs.replace(batch.detail, usage=batch.detail.usage.plus(rows))
        async with self.database.writing() as connection:
            values = {
                "num_completed": batches.c.num_completed + len(lines) - num_failed,
                "num_failed": batches.c.num_failed + num_failed,
                "detail": _encode(detail),
            }
            await self._require(connection, batch.id, values)
            await connection.execute(insert(batch_results), results)
            await insert_rows(connection, rows)
        return msgspec.structs.replace(
            batch,
            detail=detail,
            num_completed=batch.num_completed + len(lines) - num_failed,
            num_failed=batch.num_failed + num_failed,
        )

    async def finished_numbers(self, batch_id: str) -> set[int]:
        """Return the numbers of the lines that are finished."""
        async with self.database.reading() as connection:
            rows = await connection.execute(select(batch_results.c.line).where(batch_results.c.batch_id == batch_id))
            return set(rows.scalars())

    async def results(self, batch_id: str, *, is_error: bool, page: int = 200) -> AsyncGenerator[bytes]:
        """Yield the finished lines of one kind in the order of the input, each with a line break at its end."""
        last = 0
        while True:
            wanted = (batch_results.c.batch_id == batch_id) & (batch_results.c.is_error == is_error)
            query = select(batch_results.c.line, batch_results.c.result).where(wanted & (batch_results.c.line > last))
            async with self.database.reading() as connection:
                rows = (await connection.execute(query.order_by(batch_results.c.line).limit(page))).all()
            if not rows:
                return
            for row in rows:
                yield zlib.decompress(row.result) + b"\n"
            last = rows[-1].line

    async def forget(self) -> None:
        """Remove the rows of batches that were over long ago."""
        old = batches.c.status.not_in(_ACTIVE) & (batches.c.created_at_ms < now_ms() - _KEPT_FOR_MS)
        async with self.database.writing() as connection:
            await connection.execute(delete(batches).where(old))

    async def end(self, connection: AsyncConnection, batch: StoredBatch) -> str | None:
        """End a batch in the caller's transaction: remove its journal and its hold on the input.

        Returns the location of a blob to remove after the commit. ``LeaseLost`` if another process works on it.
        """
        values = {"status": batch.status, "detail": _encode(batch.detail), "owner": None, "lease_until_ms": 0}
        await self._require(connection, batch.id, values)
        await connection.execute(delete(batch_results).where(batch_results.c.batch_id == batch.id))
        digest = batch.detail.input_digest
        return None if digest is None else await release(connection, digest)

    async def _require(self, connection: AsyncConnection, batch_id: str, values: Json) -> None:
        """Change the batch's row, which locks it until the transaction's end. ``LeaseLost`` if it is not this process's."""
        mine = (batches.c.id == batch_id) & (batches.c.owner == self.owner) & batches.c.status.in_(_ACTIVE)
        if not (await connection.execute(update(batches).where(mine).values(**values))).rowcount:
            raise LeaseLost(batch_id)

    def _lease(self) -> Json:
        return {"owner": self.owner, "lease_until_ms": now_ms() + round(1000 * self.lease_s)}


def now_ms() -> int:
    return int(time.time() * 1000)


def _stored(row: RowMapping) -> StoredBatch:
    values = {name: row[name] for name in StoredBatch.__struct_fields__ if name != "detail"}
    return StoredBatch(**values, detail=msgspec.json.decode(row["detail"], type=BatchDetail))
