"""Conversations: named lists of items that responses read and add to."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec
from sqlalchemy import Select, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from antiphon.accounts.listing import Listing
from antiphon.accounts.schema import conversation_items, conversations
from antiphon.accounts.store_database import StoreDatabase
from antiphon.protocol.paging import PageQuery
from antiphon.state.claims import Claim, claim, conversation_locked
from antiphon.state.json_size import MAX_CHARS_ON_LOOP

Json = dict[str, Any]
_encode = msgspec.json.Encoder().encode
_ATTEMPTS = 5
_GONE_ON = "This server lost the conversation while it answered, and another response was begun in it. Please retry."


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """``created_at`` in Unix seconds."""

    id: str
    account: str
    created_at: int
    metadata: dict[str, str] = {}

    def value(self) -> Json:
        """Return it as the API shows it."""
        return {"id": self.id, "object": "conversation", "created_at": self.created_at, "metadata": self.metadata}


class ConversationStore:
    """Belongs to one event loop. ``engine`` is owned by its creator. Every method may raise ``ApiError`` 503."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._database = StoreDatabase(engine, "database of conversations")

    async def create(
        self, conversation_id: str, account: str, metadata: dict[str, str], items: Sequence[Json]
    ) -> Conversation:
        made = Conversation(id=conversation_id, account=account, created_at=int(time.time()), metadata=metadata)
        row = {"id": made.id, "account": account, "created_at": made.created_at, "metadata": _encode(metadata)}
        async with self._database.writing() as connection:
            await connection.execute(insert(conversations), [row])
            if items:
                await connection.execute(insert(conversation_items), _rows(made.id, 0, items))
        return made

    async def find(self, conversation_id: str, account: str) -> Conversation | None:
        """Return a conversation of ``account``, None for one that is not kept or another's."""
        wanted = (conversations.c.id == conversation_id) & (conversations.c.account == account)
        async with self._database.reading() as connection:
            row = (await connection.execute(select(conversations).where(wanted))).one_or_none()
        if row is None:
            return None
        return Conversation(
            id=row.id, account=row.account, created_at=row.created_at, metadata=msgspec.json.decode(row.metadata)
        )

    async def claim(self, conversation_id: str, account: str) -> Claim | None:
        """Take a conversation to answer in it; see ``claims.claim``."""
        return await claim(self._database, conversation_id, account)

    async def set_metadata(self, conversation_id: str, metadata: dict[str, str]) -> None:
        change = update(conversations).where(conversations.c.id == conversation_id)
        async with self._database.writing() as connection:
            await connection.execute(change.values(metadata=_encode(metadata)))

    async def delete(self, conversation_id: str) -> None:
        """Remove a conversation and its items."""
        async with self._database.writing() as connection:
            items = delete(conversation_items).where(conversation_items.c.conversation_id == conversation_id)
            await connection.execute(items)
            await connection.execute(delete(conversations).where(conversations.c.id == conversation_id))

    async def items(self, conversation_id: str) -> tuple[Json, ...]:
        """Return every item, oldest first."""
        wanted = select(conversation_items.c.item).where(conversation_items.c.conversation_id == conversation_id)
        async with self._database.reading() as connection:
            rows = (await connection.execute(wanted.order_by(conversation_items.c.position))).scalars().all()
        return await _decoded(rows)

    async def page(self, conversation_id: str, query: PageQuery) -> tuple[tuple[Json, ...], bool]:
        """Return the items that ``query`` names, and whether there are more. ``ApiError`` 400 for a cursor that names none."""
        table = conversation_items.c
        all_items: Select[*tuple[Any, ...]] = select(table.item).where(table.conversation_id == conversation_id)
        listing = Listing(all_items, [table.position], table.item_id, query)
        async with self._database.reading() as connection:
            rows, has_more = await listing.page(connection)
        return await _decoded([row["item"] for row in rows]), has_more

    async def find_item(self, conversation_id: str, item_id: str) -> Json | None:
        """Return one item, None if there is none of that id."""
        table = conversation_items.c
        wanted = select(table.item).where(table.conversation_id == conversation_id, table.item_id == item_id)
        async with self._database.reading() as connection:
            found = (await connection.execute(wanted.order_by(table.position).limit(1))).scalar()
        return None if found is None else msgspec.json.decode(found)

    async def length(self, conversation_id: str) -> int:
        """Return the position at which the next item goes."""
        last = select(func.max(conversation_items.c.position)).where(
            conversation_items.c.conversation_id == conversation_id
        )
        async with self._database.reading() as connection:
            found: int | None = (await connection.execute(last)).scalar()
        return 0 if found is None else found + 1

    async def append(self, conversation_id: str, items: Sequence[Json], claim: Claim | None = None) -> None:
        """Add items at the end, unless the conversation was deleted meanwhile: then nothing is kept of them.

        ``ApiError`` 409 if ``claim`` is lost: the conversation has gone on without these items.
        Positions are unique, so of two that append at once one tries again; ``ApiError`` 409 at last.
        """
        for _ in range(_ATTEMPTS):
            position = await self.length(conversation_id)
            with self._database.errors(), suppress(IntegrityError):
                async with self._database.engine.connect() as connection:
                    await connection.execute(insert(conversation_items), _rows(conversation_id, position, items))
                    # After the insertion, which holds off a deletion until it is decided (in SQLite by itself).
                    found = (await connection.execute(_lock(conversation_id))).first()
                    if claim is not None and found is not None and found.taken_by != claim.holder:
                        raise conversation_locked(_GONE_ON)
                    await (connection.rollback() if found is None else connection.commit())
                return
        raise conversation_locked("Another request is writing to this conversation. Try again.")

    async def delete_item(self, conversation_id: str, item_id: str) -> bool:
        """Remove one item; False if there is none of that id."""
        wanted = (conversation_items.c.conversation_id == conversation_id) & (conversation_items.c.item_id == item_id)
        async with self._database.writing() as connection:
            return (await connection.execute(delete(conversation_items).where(wanted))).rowcount > 0


def _lock(conversation_id: str) -> Select[*tuple[Any, ...]]:
    return select(conversations.c.taken_by).where(conversations.c.id == conversation_id).with_for_update(read=True)


async def _decoded(rows: Sequence[bytes]) -> tuple[Json, ...]:
    """Return the items of rows; many or large ones are decoded off the event loop."""
    if sum(map(len, rows)) < MAX_CHARS_ON_LOOP:
        return _items(rows)
    return await asyncio.to_thread(_items, rows)


def _items(rows: Sequence[bytes]) -> tuple[Json, ...]:
    return tuple(msgspec.json.decode(row) for row in rows)


def _rows(conversation_id: str, position: int, items: Sequence[Json]) -> list[Json]:
    return [
        {
            "conversation_id": conversation_id,
            "position": position + offset,
            "item_id": item["id"],
            "item": _encode(item),
        }
        for offset, item in enumerate(items)
    ]
