"""Insert usage rows and their dollars in one transaction, and classify what a failed insert means.

A failure is either an outage, which concerns every row and passes by itself or by an operator's hand, or a refusal,
which concerns the values of one row and never passes.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import msgspec
from sqlalchemy import Dialect, Table, insert, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, InterfaceError, ProgrammingError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from antiphon.accounts.schema import spend, usage
from antiphon.accounts.usage import UsageRow

_MS_PER_DAY = 86_400_000
_REFUSING_SQLSTATES = ("22", "23")
"""PostgreSQL's classes "data exception" and "integrity constraint violation"."""


async def write_rows(engine: AsyncEngine, rows: Sequence[UsageRow], *, is_retry: bool) -> None:
    """Insert ``rows`` and add their dollars to ``spend`` in one transaction.

    With ``is_retry``, skip the rows that are already in the table: an earlier commit may have worked although its
    confirmation was lost.
    """
    async with engine.begin() as connection:
        if is_retry:
            rows = await _missing(connection, rows)
        await insert_rows(connection, rows)


async def insert_rows(connection: AsyncConnection, rows: Sequence[UsageRow]) -> None:
    """Insert ``rows`` and add their dollars to ``spend`` in the caller's transaction."""
    if rows:
        # Compiled once and given tuples: half the time of the same statement with dictionaries.
        await connection.exec_driver_sql(_insert(connection.dialect), [msgspec.structs.astuple(row) for row in rows])
        await _add_spend(connection, rows, sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert)


def is_refusal(error: Exception) -> bool:
    """Return whether ``error`` concerns the values of a row, so that trying again cannot work.

    Everything that may concern the database itself (lost connection, lock, full or damaged disk, missing table or
    permission) is not a refusal.
    """
    if isinstance(error, (IntegrityError, DataError)):
        return True
    if isinstance(error, DBAPIError):
        if error.connection_invalidated:
            return False
        sqlstate = str(getattr(error.orig, "sqlstate", None) or "")
        # Drivers check values before they send them: asyncpg raises a ValueError, sqlite3 names the parameter.
        return (
            sqlstate.startswith(_REFUSING_SQLSTATES)
            or isinstance(getattr(error.orig, "__cause__", None), ValueError)
            or (isinstance(error, (InterfaceError, ProgrammingError)) and "binding parameter" in str(error.orig))
        )
    # What is left of SQLAlchemy's errors concerns the pool; what is left of Python's was raised by encoding a value.
    return not isinstance(error, (SQLAlchemyError, OSError, MemoryError))


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
    # Every server uses this order, so that two of them never wait for each other's rows.
    values = [{"key_id": key_id, "day": day, "usd": usd} for (key_id, day), usd in sorted(totals.items())]
    await connection.execute(_upsert(spend, upsert), values)


def _upsert(table: Table, upsert: Any) -> Any:
    statement = upsert(table)
    return statement.on_conflict_do_update(
        index_elements=[table.c.key_id, table.c.day], set_={"usd": table.c.usd + statement.excluded.usd}
    )
