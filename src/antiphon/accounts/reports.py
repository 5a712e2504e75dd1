"""Questions to the usage table: sums over time, keys and models."""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from sqlalchemy import ColumnElement, Double, Select, case, cast, func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from antiphon.accounts.errors import AccountError
from antiphon.accounts.outcome import Kind
from antiphon.accounts.schema import keys, usage

Group = Literal["time", "key", "model", "batch"]

# The model that answered; for a request without an answer, the requested one.
_MODEL = func.coalesce(usage.c.model_answered, usage.c.model_asked)
_FIRST_ERROR_STATUS = 400


class UsageQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which rows, and how to add them up. Times are Unix milliseconds, ``start`` inclusive, ``end`` exclusive.

    ``by`` names the groups; time comes in buckets of ``bucket_ms`` counted from 1970 in UTC. None for a filter is all.
    ``is_batch`` True keeps the requests of batches, False the others.
    """

    start_ms: int = 0
    end_ms: int | None = None
    by: tuple[Group, ...] = ()
    bucket_ms: int = 86_400_000
    kinds: tuple[Kind, ...] | None = None
    key_ids: tuple[str, ...] | None = None
    models: tuple[str, ...] | None = None
    is_batch: bool | None = None


class UsageTotal(msgspec.Struct, frozen=True, kw_only=True):
    """One sum. ``bucket_ms`` is where its bucket of time begins; it and the other groups are None where not asked for.

    ``key_id`` is also None for requests without a key. ``usd`` adds up the requests that have a price, None if none has;
    ``num_unpriced`` used tokens without one. The tokens of ``num_estimated`` are estimates. ``saved_usd`` is what the response cache saved, None where that is not known of
    any. ``mean_ttft_s`` is over the requests that saw a first token.
    """

    bucket_ms: int | None
    key_id: str | None
    key_name: str | None
    model: str | None
    is_batch: bool | None = None
    num_requests: int
    num_failed: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    compute_s: float | None
    usd: float | None
    num_unpriced: int
    saved_usd: float | None
    mean_ttft_s: float | None
    num_estimated: int


async def totals(engine: AsyncEngine, query: UsageQuery) -> list[UsageTotal]:
    """Return the sums, ordered by their groups. Rows that a ledger still holds are not in them."""
    async with engine.connect() as connection:
        rows = (await connection.execute(_statement(query))).mappings().all()
        names = {row.id: row.name for row in await connection.execute(select(keys.c.id, keys.c.name))}
    return [_total(row, query, names) for row in rows]


async def ids_of(engine: AsyncEngine, name_or_id: str) -> tuple[str, ...]:
    """Return the ids of all keys that have or had this name or id. Raises ``AccountError`` if there is none."""
    wanted = select(keys.c.id).where((keys.c.id == name_or_id) | (keys.c.name == name_or_id))
    async with engine.connect() as connection:
        ids = tuple((await connection.execute(wanted)).scalars())
    if not ids:
        raise AccountError(f"There is no key {name_or_id!r}", hint="`antiphon keys list` shows their names and ids.")
    return ids


def _statement(query: UsageQuery) -> Select[Any]:
    groups = _groups(query)
    labelled = [column.label(name) for name, column in groups.items()]
    statement = select(*labelled, *_sums()).where(*_conditions(query))
    return statement.group_by(*groups.values()).order_by(*groups.values())


def _groups(query: UsageQuery) -> dict[str, ColumnElement[Any]]:
    every: dict[Group, ColumnElement[Any]] = {
        "time": usage.c.at_ms - usage.c.at_ms % query.bucket_ms,
        "key": usage.c.key_id,
        "model": _MODEL,
        "batch": usage.c.is_batch,
    }
    return {f"by_{name}": column for name, column in every.items() if name in query.by}


def _sums() -> list[ColumnElement[Any]]:
    failed = case((usage.c.status >= _FIRST_ERROR_STATUS, 1), else_=0)
    worked = usage.c.prompt_tokens + usage.c.completion_tokens > 0
    unpriced = case((usage.c.usd.is_(None) & worked, 1), else_=0)
    return [
        func.count().label("num_requests"),
        _integer(failed).label("num_failed"),
        _integer(usage.c.prompt_tokens).label("prompt_tokens"),
        _integer(usage.c.completion_tokens).label("completion_tokens"),
        _integer(usage.c.cached_tokens).label("cached_tokens"),
        func.sum(usage.c.compute_s).label("compute_s"),
        func.sum(usage.c.usd).label("usd"),
        _integer(unpriced).label("num_unpriced"),
        func.sum(usage.c.saved_usd).label("saved_usd"),
        func.avg(usage.c.ttft_s).label("mean_ttft_s"),
        _integer(case((usage.c.is_estimate, 1), else_=0)).label("num_estimated"),
    ]


def _integer(column: ColumnElement[Any]) -> ColumnElement[float]:
    # SQLite fails on a sum beyond 64 bits. As floats the sums are exact up to 2^53 tokens.
    return func.coalesce(func.sum(cast(column, Double), type_=Double), 0.0)


def _conditions(query: UsageQuery) -> list[ColumnElement[bool]]:
    conditions = [usage.c.at_ms >= query.start_ms]
    if query.end_ms is not None:
        conditions.append(usage.c.at_ms < query.end_ms)
    filters: Sequence[tuple[ColumnElement[Any], tuple[str, ...] | None]] = (
        (usage.c.kind, query.kinds),
        (usage.c.key_id, query.key_ids),
        (_MODEL, query.models),
    )
    conditions += [column.in_(wanted) for column, wanted in filters if wanted is not None]
    if query.is_batch is not None:
        conditions.append(usage.c.is_batch == query.is_batch)
    return conditions


def _total(row: Any, query: UsageQuery, names: dict[str, str]) -> UsageTotal:
    key_id = row["by_key"] if "key" in query.by else None
    sums = {label: row[label] for label in row if not label.startswith("by_")}
    integers = {label: int(value) for label, value in sums.items() if label.endswith("_tokens") or label[:4] == "num_"}
    return UsageTotal(
        bucket_ms=int(row["by_time"]) if "time" in query.by else None,
        key_id=key_id,
        key_name=names.get(key_id) if key_id is not None else None,
        model=row["by_model"] if "model" in query.by else None,
        is_batch=row["by_batch"] if "batch" in query.by else None,
        **{**sums, **integers},
    )
