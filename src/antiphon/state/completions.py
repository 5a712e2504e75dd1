"""Stored chat completions: for requests with ``store: true``, under the same retention and bound as responses."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Select, delete, func, insert, literal, select, update
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncEngine

from antiphon.accounts.listing import Listing
from antiphon.accounts.schema import stored_completions
from antiphon.accounts.store_database import StoreDatabase
from antiphon.protocol.paging import PageQuery
from antiphon.state.json_size import MAX_CHARS_ON_LOOP, has_fewer_chars
from antiphon.state.packing import packed, unpacked
from antiphon.state.settings import ResponseSettings
from antiphon.state.sweeping import SweepSchedule

Json = dict[str, Any]
_DAY_MS = 86_400_000
_BATCH = 500
_ROW_BYTES = 500
"""What a row takes in addition to its content, with keys, indexes and unfilled pages."""
_encode = msgspec.json.Encoder().encode


class StoredCompletion(msgspec.Struct, frozen=True, kw_only=True):
    """``body`` is the completion as it was answered; ``messages`` are those of the request."""

    id: str
    account: str
    model: str
    metadata: dict[str, str]
    body: Json
    messages: tuple[Json, ...]

    def value(self) -> Json:
        """Return it as the API shows it."""
        return self.body | {"metadata": self.metadata}


class CompletionStore:
    """Belongs to one event loop. ``engine`` is owned by its creator. Every method may raise ``ApiError`` 503."""

    def __init__(self, engine: AsyncEngine, settings: ResponseSettings) -> None:
        self._database = StoreDatabase(engine, "database of completions")
        self._settings = settings
        self._schedule = SweepSchedule(settings.max_bytes)

    @property
    def is_on(self) -> bool:
        return self._settings.store != "off"

    async def save(self, completion: StoredCompletion) -> None:
        """Write a completion that is over."""
        # A long conversation takes a while to encode and compress, a thread costs more than a short one.
        is_small = has_fewer_chars((completion.body, completion.messages), MAX_CHARS_ON_LOOP)
        row = self._row(completion) if is_small else await asyncio.to_thread(self._row, completion)
        async with self._database.writing() as connection:
            await connection.execute(insert(stored_completions), [row])
        if self._schedule.wrote(row["num_bytes"]):
            await self.sweep()

    def _row(self, completion: StoredCompletion) -> Json:
        body, messages = _encode(completion.body), packed(completion.messages)
        now = _now_ms()
        return {
            "id": completion.id,
            "account": completion.account,
            "model": completion.model,
            "created_at_ms": now,
            "expires_at_ms": now + round(self._settings.retention_days * _DAY_MS),
            "metadata": _encode(completion.metadata),
            "body": body,
            "messages": messages,
            "num_bytes": len(body) + len(messages) + _ROW_BYTES,
        }

    async def find(self, completion_id: str, account: str) -> StoredCompletion | None:
        """Return a completion of ``account``; None for one that is not kept, expired, or another's."""
        found = await self._select(account, stored_completions.c.id == completion_id)
        return found[0] if found else None

    async def page(
        self, account: str, query: PageQuery, model: str | None, metadata: Mapping[str, str]
    ) -> tuple[list[StoredCompletion], bool]:
        """Return the completions of ``account`` that ``query`` names, and whether there are more.

        Of one model if it is named, and with these metadata. Their messages are not read. ``ApiError`` 400 for a cursor that
        names none of them.
        """
        shown, has_more = await self._page_of_ids(account, query, model, metadata)
        found = {one.id: one for one in await self._select(account, stored_completions.c.id.in_(shown), is_whole=False)}
        return [found[name] for name in shown if name in found], has_more

    async def _page_of_ids(
        self, account: str, query: PageQuery, model: str | None, metadata: Mapping[str, str]
    ) -> tuple[list[str], bool]:
        """Return the ids of a page, and whether there are more; metadata are compared here, a batch of rows at a time."""
        table = stored_completions.c
        whole: Select[*tuple[Any, ...]] = select(table.id, table.created_at_ms, table.metadata).where(_live(account))
        narrowed = () if model is None else (table.model == model,)
        listing = Listing(whole, [table.created_at_ms, table.id], table.id, query, narrowed)
        most = query.limit + 1
        batch = _BATCH if metadata else most
        ids: list[str] = []
        async with self._database.reading() as connection:
            statement = await listing.rows(connection)
            rows = (await connection.execute(statement.limit(batch))).mappings().all()
            while rows:
                ids += [row["id"] for row in rows if not metadata or _has(row["metadata"], metadata)]
                if len(ids) >= most or len(rows) < batch:
                    break
                following = statement.where(listing.behind(rows[-1])).limit(batch)
                rows = (await connection.execute(following)).mappings().all()
        return listing.shown(ids[:most])

    async def _select(self, account: str, condition: Any, *, is_whole: bool = True) -> list[StoredCompletion]:
        table = stored_completions.c
        columns = [table.id, table.account, table.model, table.metadata, table.body]
        query = select(*columns, table.messages if is_whole else literal(b"[]").label("messages"))
        async with self._database.reading() as connection:
            rows = (await connection.execute(query.where(_live(account), condition))).all()
        return await asyncio.to_thread(lambda: [_stored(row) for row in rows])

    async def set_metadata(self, completion_id: str, metadata: dict[str, str]) -> None:
        change = update(stored_completions).where(stored_completions.c.id == completion_id)
        async with self._database.writing() as connection:
            await connection.execute(change.values(metadata=_encode(metadata)))

    async def delete(self, completion_id: str) -> None:
        """Remove a completion."""
        async with self._database.writing() as connection:
            await connection.execute(delete(stored_completions).where(stored_completions.c.id == completion_id))

    async def sweep(self) -> None:
        """Remove what is expired, then the oldest while more than ``max_bytes`` are kept."""
        table = stored_completions
        async with self._database.writing() as connection:
            await connection.execute(delete(table).where(table.c.expires_at_ms <= _now_ms()))
        async with self._database.reading() as connection:
            total: int = (await connection.execute(select(func.coalesce(func.sum(table.c.num_bytes), 0)))).scalar_one()
        while total > self._settings.max_bytes:
            num_bytes = await self._remove_oldest(total - self._settings.max_bytes)
            total -= num_bytes
            if not num_bytes:
                break
        self._schedule.swept(total)

    async def _remove_oldest(self, excess: int) -> int:
        """Remove up to a batch of the oldest rows, ``excess`` bytes or the first that exceed it; return their bytes."""
        table = stored_completions
        oldest = select(table.c.id, table.c.num_bytes).order_by(table.c.created_at_ms, table.c.id).limit(_BATCH)
        doomed: list[str] = []
        num_bytes = 0
        async with self._database.writing() as connection:
            for row in await connection.execute(oldest):
                if num_bytes >= excess:
                    break
                doomed.append(row.id)
                num_bytes += row.num_bytes
            await connection.execute(delete(table).where(table.c.id.in_(doomed)))
        return num_bytes


def _live(account: str) -> ColumnElement[bool]:
    return (stored_completions.c.account == account) & (stored_completions.c.expires_at_ms > _now_ms())


def _has(encoded: bytes, wanted: Mapping[str, str]) -> bool:
    return wanted.items() <= msgspec.json.decode(encoded).items()


def _stored(row: Row[Any]) -> StoredCompletion:
    return StoredCompletion(
        id=row.id,
        account=row.account,
        model=row.model,
        metadata=msgspec.json.decode(row.metadata),
        body=msgspec.json.decode(row.body),
        messages=unpacked(row.messages),
    )


def _now_ms() -> int:
    return int(time.time() * 1000)
