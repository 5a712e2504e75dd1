"""Single requests of the usage table, newest first."""

from typing import Any, Literal

import msgspec
from sqlalchemy import ColumnElement, RowMapping, func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from antiphon.accounts.schema import keys, usage
from antiphon.accounts.usage import UsageRow

_FIRST_ERROR_STATUS = 400
StatusFilter = Literal["ok", "error"]


class RequestQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which requests; None for a filter is all. ``before`` is the id of a row: only older ones; ``model`` is asked or answered."""

    limit: int = 100
    before: str | None = None
    status: StatusFilter | None = None
    model: str | None = None
    key_id: str | None = None
    path: str | None = None


class LoggedRequest(msgspec.Struct, frozen=True):
    """A row and the name of its key, None without a key."""

    row: UsageRow
    key_name: str | None


async def list_requests(engine: AsyncEngine, query: RequestQuery) -> list[LoggedRequest]:
    """Return the rows that match, newest first. Rows that a ledger still holds are not in them."""
    return await _rows(engine, _conditions(query), query.limit)


async def find_request(engine: AsyncEngine, request_id: str) -> LoggedRequest | None:
    """Return the row of one request."""
    found = await _rows(engine, [usage.c.request_id == request_id], 1)
    return found[0] if found else None


async def _rows(engine: AsyncEngine, conditions: list[ColumnElement[bool]], limit: int) -> list[LoggedRequest]:
    statement = (
        select(*usage.c, keys.c.name.label("key_name"))
        .select_from(usage.outerjoin(keys, keys.c.id == usage.c.key_id))
        .where(*conditions)
        # By time first, for which there is an index; the id begins with the same time.
        .order_by(usage.c.at_ms.desc(), usage.c.id.desc())
        .limit(limit)
    )
    async with engine.connect() as connection:
        return [_logged(row) for row in (await connection.execute(statement)).mappings()]


def _logged(row: RowMapping) -> LoggedRequest:
    values: dict[str, Any] = {name: row[name] for name in UsageRow.__struct_fields__}
    return LoggedRequest(UsageRow(**values), row["key_name"])


def _conditions(query: RequestQuery) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if query.before is not None:
        at_ms = int(query.before[:12], 16)
        conditions.append((usage.c.at_ms < at_ms) | ((usage.c.at_ms == at_ms) & (usage.c.id < query.before)))
    if query.status == "ok":
        conditions.append(usage.c.status < _FIRST_ERROR_STATUS)
    elif query.status == "error":
        conditions.append(usage.c.status >= _FIRST_ERROR_STATUS)
    if query.model is not None:
        conditions.append(func.coalesce(usage.c.model_answered, usage.c.model_asked) == query.model)
    if query.key_id is not None:
        conditions.append(usage.c.key_id == query.key_id)
    if query.path is not None:
        conditions.append(usage.c.path == query.path)
    return conditions
