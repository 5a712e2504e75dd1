"""Which upstream has an object, and which account may name it.

An object belongs to the upstream that made it: a later request for a file, a batch or a response has to go there. Its id
is all that is kept, until the object is deleted, or for as long as OpenAI keeps a response, or a year for anything else.
"""

import time
from collections.abc import Collection
from contextlib import suppress
from typing import Any

import msgspec
from sqlalchemy import delete, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from antiphon.accounts.schema import upstream_objects
from antiphon.accounts.store_database import StoreDatabase

_DAY_MS = 86_400_000
_RESPONSE_DAYS = 30
_OTHER_DAYS = 365
_SWEEP_EVERY = 100
_IDS_AT_ONCE = 500


class UpstreamObject(msgspec.Struct, frozen=True):
    """An object's id, the name of its upstream, and the account that it was made for."""

    id: str
    upstream: str
    account: str


class UpstreamObjects:
    """Belongs to one event loop. ``engine`` is owned by its creator."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._database = StoreDatabase(engine, "database of upstream objects")
        self._num_saved = 0

    async def save(self, made: UpstreamObject) -> None:
        """Remember an object. One that is known stays as it is: its first owner keeps it."""
        days = _RESPONSE_DAYS if made.id.startswith("resp_") else _OTHER_DAYS
        row = msgspec.structs.asdict(made) | {"expires_at_ms": _now_ms() + days * _DAY_MS}
        with self._database.errors(), suppress(IntegrityError):  # another request saved it at the same moment
            async with self._database.engine.begin() as connection:
                known = select(upstream_objects.c.id).where(upstream_objects.c.id == made.id)
                if (await connection.execute(known)).first() is None:
                    await connection.execute(insert(upstream_objects), [row])
                if self._num_saved % _SWEEP_EVERY == 0:
                    await connection.execute(
                        delete(upstream_objects).where(upstream_objects.c.expires_at_ms <= _now_ms())
                    )
            self._num_saved += 1

    async def find(self, ids: Collection[str]) -> dict[str, UpstreamObject]:
        """Return those of the objects that are known, by id, of all accounts."""
        columns = (upstream_objects.c.id, upstream_objects.c.upstream, upstream_objects.c.account)
        is_valid = upstream_objects.c.expires_at_ms > _now_ms()
        wanted = list(dict.fromkeys(ids))
        rows: list[Any] = []
        async with self._database.reading() as connection:
            # A database takes a bounded number of values in one statement.
            for start in range(0, len(wanted), _IDS_AT_ONCE):
                is_wanted = upstream_objects.c.id.in_(wanted[start : start + _IDS_AT_ONCE])
                rows += (await connection.execute(select(*columns).where(is_wanted & is_valid))).all()
        return {row.id: UpstreamObject(row.id, row.upstream, row.account) for row in rows}

    async def forget(self, object_id: str) -> None:
        """Remove an object that its upstream has deleted."""
        async with self._database.writing() as connection:
            await connection.execute(delete(upstream_objects).where(upstream_objects.c.id == object_id))


def _now_ms() -> int:
    return round(time.time() * 1000)
