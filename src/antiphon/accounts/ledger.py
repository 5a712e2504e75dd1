"""Writes usage rows behind the answers: collected in memory, committed in batches by one task.

**The bound**: a row is committed at most ``FLUSH_EVERY_S`` plus the time of one commit after ``append``, well under a
second. A killed process loses the rows of that last moment and no others. A normal stop loses none. While the
database does not answer, rows wait in memory and are tried again.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from functools import cache
from typing import Any

import msgspec
import structlog
from sqlalchemy import Dialect, Table, insert, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from antiphon.accounts.database import cause, is_sqlite
from antiphon.accounts.errors import AccountError
from antiphon.accounts.schema import spend, usage
from antiphon.accounts.usage import UsageRow

FLUSH_EVERY_S = 0.25
_BATCH = 2_000
_RETRY_AFTER_S = (0.25, 0.5, 1.0, 2.0)
_MS_PER_DAY = 86_400_000

_log = structlog.get_logger("antiphon.accounts")


class LedgerStatistics(msgspec.Struct, frozen=True):
    """``waiting`` rows are in memory alone; ``failures_in_a_row`` counts commits in a row that did not work."""

    written_total: int
    waiting: int
    failures_in_a_row: int


class Ledger:
    """The usage table's only writer in this process."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._waiting: list[UsageRow] = []
        self._wake = asyncio.Event()
        self._closing = asyncio.Event()
        self.writing = asyncio.Lock()
        """Held while a batch is committed; whoever holds it sees each row either waiting or in the database."""
        self._num_written = 0
        self._num_failures = 0
        self._task = asyncio.create_task(self._run(), name="antiphon-ledger")

    def append(self, row: UsageRow) -> None:
        """Take a row; returns at once."""
        self._waiting.append(row)
        self._wake.set()

    def waiting_usd(self, key_id: str, since_ms: int) -> float:
        """Sum the dollars of ``key_id`` that are not committed yet."""
        return sum(row.usd or 0.0 for row in self._waiting if row.key_id == key_id and row.at_ms >= since_ms)

    def statistics(self) -> LedgerStatistics:
        return LedgerStatistics(self._num_written, len(self._waiting), self._num_failures)

    async def flush(self) -> None:
        """Commit everything that waits. Raises ``SQLAlchemyError`` or ``OSError`` if it cannot."""
        while self._waiting:
            async with self.writing:
                batch = self._waiting[:_BATCH]
                await write_rows(self._engine, batch, is_retry=self._num_failures > 0)
                del self._waiting[: len(batch)]
            self._num_written += len(batch)
            self._num_failures = 0

    async def _run(self) -> None:
        while not self._closing.is_set():
            await self._wake.wait()
            self._wake.clear()
            await self._pause(FLUSH_EVERY_S)
            await self._try_flush()

    async def _try_flush(self) -> None:
        try:
            await self.flush()
        except Exception as error:  # noqa: BLE001 - whatever it was, the rows wait; without this task none would ever be written
            pause_s = _RETRY_AFTER_S[min(self._num_failures, len(_RETRY_AFTER_S) - 1)]
            self._num_failures += 1
            _log.warning("ledger_cannot_write", error=str(cause(error)), waiting=len(self._waiting), retry_in_s=pause_s)
            self._wake.set()
            await self._pause(pause_s)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), seconds)

    async def aclose(self) -> None:
        """Commit what waits and stop. Raises ``AccountError`` with the number of rows that could not be saved."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._wake.set()
        await self._task
        try:
            await self.flush()
        except (SQLAlchemyError, OSError) as error:
            raise AccountError(
                f"{len(self._waiting)} usage rows could not be written: {cause(error)}",
                hint="The database did not answer while the server stopped.",
            ) from error


async def write_rows(engine: AsyncEngine, rows: Sequence[UsageRow], *, is_retry: bool) -> None:
    """Insert ``rows`` and add their dollars to ``spend`` in one transaction.

    With ``is_retry`` the rows that are there already are left out: the commit before may have worked, and only its
    answer been lost.
    """
    async with engine.begin() as connection:
        if is_retry:
            rows = await _missing(connection, rows)
        if rows:
            # Compiled once and given tuples: half the time of the same statement with dictionaries.
            await connection.exec_driver_sql(_insert(engine.dialect), [msgspec.structs.astuple(row) for row in rows])
            await _add_spend(connection, rows, sqlite.insert if is_sqlite(engine.url) else postgresql.insert)


@cache
def _insert(dialect: Dialect) -> str:
    assert tuple(usage.c.keys()) == UsageRow.__struct_fields__
    return str(insert(usage).compile(dialect=dialect))


async def _missing(connection: AsyncConnection, rows: Sequence[UsageRow]) -> list[UsageRow]:
    present = await connection.execute(select(usage.c.id).where(usage.c.id.in_([row.id for row in rows])))
    ids = set(present.scalars())
    return [row for row in rows if row.id not in ids]


async def _add_spend(connection: AsyncConnection, rows: Sequence[UsageRow], upsert: Any) -> None:
    totals: dict[tuple[str, int], float] = {}
    for row in rows:
        if row.usd is not None and row.key_id is not None:
            day = row.key_id, row.at_ms // _MS_PER_DAY
            totals[day] = totals.get(day, 0.0) + row.usd
    if not totals:
        return
    # In one order everywhere, so that two servers never wait for each other's rows.
    values = [{"key_id": key_id, "day": day, "usd": usd} for (key_id, day), usd in sorted(totals.items())]
    await connection.execute(_upsert(spend, upsert), values)


def _upsert(table: Table, upsert: Any) -> Any:
    statement = upsert(table)
    return statement.on_conflict_do_update(
        index_elements=[table.c.key_id, table.c.day], set_={"usd": table.c.usd + statement.excluded.usd}
    )
