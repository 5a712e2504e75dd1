"""Stored responses: written once they are over (or, in the background, from the start), read by their owner alone.

A row holds the response object, its input items, and a copy of the items before them, compressed. So a response can be
continued whatever became of those that it followed: deleting one takes nothing from its children. Rows end with their
retention; past the bound of bytes the oldest go first.

A response in the background has a lease that its process renews. A row whose lease ran out has lost its process: it is
reported, and stored, as failed.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from antiphon.accounts.schema import response_items, responses
from antiphon.accounts.store_database import StoreDatabase
from antiphon.protocol.ids import response_id_of
from antiphon.protocol.responses.found import with_all_found
from antiphon.state.json_size import MAX_CHARS_ON_LOOP, has_fewer_chars
from antiphon.state.packing import packed, unpacked
from antiphon.state.settings import ResponseSettings
from antiphon.state.sweeping import SweepSchedule

Json = dict[str, Any]
LEASE_S = 15.0
"""How long a running background response is believed without news of its process."""
_SETTINGS = ("additional_tools", "configuration_update")
_RUNNING = ("queued", "in_progress")
_BATCH = 500
_ROW_BYTES, _ITEM_BYTES = 500, 300
"""What a row and the row of each item take in addition to their content, with keys, indexes and unfilled pages; measured."""
_DAY_MS = 86_400_000
_encode = msgspec.json.Encoder().encode
_LOST = {"code": "server_error", "message": "The server stopped before the response was complete."}


class KeptResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A stored response. ``history`` are the items before ``input``; ``body["output"]`` are those after it.

    ``found``: what its searches found, by the ids of their items, with what no client sees.
    """

    id: str
    account: str
    body: Json
    input: tuple[Json, ...]
    history: tuple[Json, ...] = ()
    conversation: str | None = None
    found: Mapping[str, list[Json]] = {}

    @property
    def status(self) -> str:
        return self.body["status"]

    @property
    def output(self) -> list[Json]:
        """What was said, with what was found."""
        return with_all_found(self.body["output"], self.found)

    @property
    def items(self) -> tuple[Json, ...]:
        """Everything that a next turn follows: from the last compaction on, where there was one."""
        output = self.output
        compacted = [at for at, item in enumerate(output) if item["type"] == "compaction"]
        before = (*self.history, *self.input)
        if compacted:
            # A summary does not say which tools and settings hold.
            return (*(item for item in before if item["type"] in _SETTINGS), *output[compacted[-1] :])
        return (*before, *output)


class StoreStatistics(msgspec.Struct, frozen=True):
    """``swept_total`` are rows that were removed by age or for room."""

    saved_total: int
    swept_total: int


class ResponseStore:
    """Belongs to one event loop. ``engine`` is owned by its creator. Every method may raise ``ApiError`` 503."""

    def __init__(self, engine: AsyncEngine, settings: ResponseSettings) -> None:
        self._database = StoreDatabase(engine, "database of responses")
        self._settings = settings
        self._schedule = SweepSchedule(settings.max_bytes)
        self._num_saved = 0
        self._num_swept = 0

    @property
    def is_on(self) -> bool:
        return self._settings.store != "off"

    async def save(self, kept: KeptResponse, *, body: bytes | None = None, replaces: bool = False) -> None:
        """Write a response. ``body``: its own as JSON, where the caller has it.

        ``replaces``: it takes the place of its earlier state; where that was deleted or cancelled meanwhile, nothing is written.
        """
        # A long history takes a while to encode and compress, a thread costs more than a short one.
        is_small = has_fewer_chars((kept.input, kept.history, kept.output), MAX_CHARS_ON_LOOP)
        row = self._row(kept, body) if is_small else await asyncio.to_thread(self._row, kept, body)
        items = _item_rows(kept)
        row["num_bytes"] += _ROW_BYTES + _ITEM_BYTES * len(items)
        async with self._database.writing() as connection:
            if replaces and not await _displace(connection, kept.id):
                return
            await connection.execute(insert(responses), [row])
            if items:
                await connection.execute(insert(response_items), items)
        self._num_saved += 1
        if self._schedule.wrote(row["num_bytes"]):
            await self.sweep()

    def _row(self, kept: KeptResponse, body: bytes | None) -> Json:
        now = _now_ms()
        body = _encode(kept.body) if body is None else body
        given, history = packed(kept.input), packed(kept.history)
        found = packed([{"id": item_id, "results": results} for item_id, results in kept.found.items()])
        return {
            "id": kept.id,
            "account": kept.account,
            "created_at_ms": now,
            "expires_at_ms": now + round(self._settings.retention_days * _DAY_MS),
            "lease_until_ms": now + round(LEASE_S * 1000),
            "status": kept.status,
            "conversation_id": kept.conversation,
            "body": body,
            "input": given,
            "history": history,
            "found": found if kept.found else None,
            "num_bytes": len(body) + len(given) + len(history) + (len(found) if kept.found else 0),
        }

    async def find(self, response_id: str, account: str) -> KeptResponse | None:
        """Return a response of ``account``; None for one that is not kept, expired, or another's."""
        wanted = (responses.c.id == response_id) & (responses.c.account == account)
        async with self._database.reading() as connection:
            row = (await connection.execute(select(responses).where(wanted))).one_or_none()
        if row is None or row.expires_at_ms <= _now_ms():
            return None
        is_small = row.num_bytes < MAX_CHARS_ON_LOOP
        kept = _kept(row) if is_small else await asyncio.to_thread(_kept, row)
        if kept.status not in _RUNNING or row.lease_until_ms >= _now_ms():
            return kept
        lost = msgspec.structs.replace(kept, body=kept.body | {"status": "failed", "error": _LOST})
        return lost if await self._give_up(lost) else await self.find(response_id, account)

    async def _give_up(self, lost: KeptResponse) -> bool:
        """Store that a response has lost its process; False if that has written to it meanwhile."""
        is_lost = responses.c.status.in_(_RUNNING) & (responses.c.lease_until_ms < _now_ms())
        change = update(responses).where(responses.c.id == lost.id, is_lost)
        async with self._database.writing() as connection:
            given_up = await connection.execute(change.values(status=lost.status, body=_encode(lost.body)))
        return given_up.rowcount > 0

    async def renew(self, response_ids: Sequence[str]) -> list[str]:
        """Say that these responses are still worked on here; return those that are over by another process's word."""
        running = responses.c.id.in_(response_ids) & responses.c.status.in_(_RUNNING)
        async with self._database.writing() as connection:
            change = update(responses).where(running)
            await connection.execute(change.values(lease_until_ms=_now_ms() + round(LEASE_S * 1000)))
            still = {row.id for row in await connection.execute(select(responses.c.id).where(running))}
        return [response_id for response_id in response_ids if response_id not in still]

    async def find_items(self, item_ids: Sequence[str], account: str) -> dict[str, Json]:
        """Return items of stored responses by their ids; those that are not kept, or another's, are missing."""
        own = [response_id for response_id in map(response_id_of, item_ids) if response_id is not None]
        items = await self._items_of(own, item_ids, account)
        missing = [item_id for item_id in item_ids if item_id not in items]
        # An item lives on in every later response whose input it was; one of these is enough.
        return items | await self._items_of(await self._holders(missing, account), missing, account)

    async def _holders(self, item_ids: Sequence[str], account: str) -> list[str]:
        """Return responses that together have those of the items that are kept, one for each item at most."""
        wanted = response_items.c.item_id.in_(item_ids) & (response_items.c.account == account)
        live = response_items.join(responses, responses.c.id == response_items.c.response_id)
        holder = select(func.max(response_items.c.response_id)).select_from(live).group_by(response_items.c.item_id)
        if not item_ids:
            return []
        async with self._database.reading() as connection:
            found = await connection.execute(holder.where(wanted, responses.c.expires_at_ms > _now_ms()))
            return list(found.scalars())

    async def _items_of(self, response_ids: Sequence[str], item_ids: Sequence[str], account: str) -> dict[str, Json]:
        wanted = set(item_ids)
        items: dict[str, Json] = {}
        for response_id in dict.fromkeys(response_ids):
            kept = await self.find(response_id, account)
            if kept is not None:
                items |= {item["id"]: item for item in (*kept.input, *kept.output) if item.get("id") in wanted}
        return items

    async def delete(self, response_id: str, account: str) -> bool:
        """Remove a response; False if there was none. What followed it keeps its own copy."""
        wanted = (responses.c.id == response_id) & (responses.c.account == account)
        async with self._database.writing() as connection:
            found = (await connection.execute(select(responses.c.id).where(wanted))).scalars().all()
            await _remove(connection, found)
            return bool(found)

    async def sweep(self) -> int:
        """Remove what is expired, then the oldest while more than ``max_bytes`` are kept; return how many went."""
        expired = select(responses.c.id).where(responses.c.expires_at_ms <= _now_ms())
        async with self._database.writing() as connection:
            old = (await connection.execute(expired)).scalars().all()
            await _remove(connection, old)
        async with self._database.reading() as connection:
            total: int = (
                await connection.execute(select(func.coalesce(func.sum(responses.c.num_bytes), 0)))
            ).scalar_one()
        swept = len(old)
        while total > self._settings.max_bytes:
            num_rows, num_bytes = await self._remove_oldest(total - self._settings.max_bytes)
            swept, total = swept + num_rows, total - num_bytes
            if not num_rows:
                break
        self._schedule.swept(total)
        self._num_swept += swept
        return swept

    async def _remove_oldest(self, excess: int) -> tuple[int, int]:
        """Remove up to a batch of the oldest rows, ``excess`` bytes or the first that exceed it; return rows and bytes."""
        oldest = select(responses.c.id, responses.c.num_bytes).order_by(responses.c.created_at_ms, responses.c.id)
        doomed: list[str] = []
        num_bytes = 0
        async with self._database.writing() as connection:
            for row in await connection.execute(oldest.limit(_BATCH)):
                if num_bytes >= excess:
                    break
                doomed.append(row.id)
                num_bytes += row.num_bytes
            await _remove(connection, doomed)
        return len(doomed), num_bytes

    def statistics(self) -> StoreStatistics:
        """Return counts without waiting."""
        return StoreStatistics(self._num_saved, self._num_swept)


async def _displace(connection: AsyncConnection, response_id: str) -> bool:
    """Remove a response that a later state follows; False if it is gone, or is to stay as it is."""
    wanted = (responses.c.id == response_id) & (responses.c.status != "cancelled")
    if not (await connection.execute(delete(responses).where(wanted))).rowcount:
        return False
    await connection.execute(delete(response_items).where(response_items.c.response_id == response_id))
    return True


async def _remove(connection: AsyncConnection, response_ids: Sequence[str]) -> None:
    for start in range(0, len(response_ids), _BATCH):
        batch = response_ids[start : start + _BATCH]
        await connection.execute(delete(response_items).where(response_items.c.response_id.in_(batch)))
        await connection.execute(delete(responses).where(responses.c.id.in_(batch)))


def _item_rows(kept: KeptResponse) -> list[Json]:
    """Return where the items are found whose own ids do not say it; an id that comes twice is found once."""
    given = (item["id"] for item in (*kept.input, *kept.body["output"]) if item.get("id"))
    ids = dict.fromkeys(item_id for item_id in given if response_id_of(item_id) != kept.id)
    return [{"item_id": item_id, "account": kept.account, "response_id": kept.id} for item_id in ids]


def _kept(row: Row[Any]) -> KeptResponse:
    return KeptResponse(
        id=row.id,
        account=row.account,
        body=msgspec.json.decode(row.body),
        input=unpacked(row.input),
        history=unpacked(row.history),
        conversation=row.conversation_id,
        found={} if row.found is None else {one["id"]: one["results"] for one in unpacked(row.found)},
    )


def _now_ms() -> int:
    return int(time.time() * 1000)
