"""Vector stores in the database: their rows, those of their files, and which process reads a file at the moment."""

import time
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, cast

import msgspec
from sqlalchemy import BigInteger, Table, and_, delete, func, insert, select, update
from sqlalchemy import cast as sql_cast
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from antiphon.accounts.listing import Listing
from antiphon.accounts.schema import files, vector_store_batches, vector_store_files, vector_stores
from antiphon.accounts.store_database import StoreDatabase
from antiphon.protocol.ids import new_id
from antiphon.protocol.paging import PageQuery
from antiphon.vector_stores.errors import (
    UnreadableFile,
    no_such_store,
    too_many_store_files,
    too_many_stores,
)
from antiphon.vector_stores.records import FileBatch, FileCounts, FileStatus, NewStoreFile, StoreFile, VectorStore
from antiphon.vector_stores.settings import VectorStoreSettings

Json = dict[str, Any]
LEASE_MS = 30_000
"""For so long a process reads a file without saying so again; after that another one takes it up."""
_DAY_MS = 86_400_000
_FORGET_AFTER_MS = 30 * _DAY_MS
_IN_PROGRESS = "in_progress"


class VectorStoreTable:
    """Belongs to one event loop. Every method may raise ``ApiError`` 503."""

    def __init__(self, engine: AsyncEngine, settings: VectorStoreSettings) -> None:
        self.engine = engine
        self._database = StoreDatabase(engine, "database of vector stores")
        self._settings = settings

    async def create(
        self,
        account: str,
        *,
        name: str,
        description: str | None,
        metadata: Mapping[str, str],
        model: str,
        expires_after_days: int | None,
    ) -> VectorStore:
        """Write the row of a new store. ``ApiError`` 400 past the number that a key may have."""
        now = now_ms()
        made = VectorStore(
            id=new_id("vs", "_"),
            account=account,
            name=name,
            description=description,
            metadata=dict(metadata),
            model=model,
            created_at_ms=now,
            last_active_at_ms=now,
            expires_after_days=expires_after_days,
            expires_at_ms=_expiry(now, expires_after_days),
        )
        row = msgspec.structs.asdict(made) | {"metadata": msgspec.json.encode(made.metadata)}
        async with self._database.writing() as connection:
            owned = select(func.count()).where(vector_stores.c.account == account)
            if (await connection.execute(owned)).scalar_one() >= self._settings.max_stores:
                raise too_many_stores(self._settings.max_stores)
            await connection.execute(insert(vector_stores).values(row))
        return made

    async def find(self, store_id: str, account: str) -> VectorStore | None:
        """Return a store of ``account``; None for one that is not kept, or another's."""
        table = vector_stores.c
        rows = await self._rows(select(vector_stores).where(table.id == store_id, table.account == account))
        return _store(rows[0]) if rows else None

    async def page(self, account: str, query: PageQuery) -> tuple[list[VectorStore], bool]:
        """Return the stores of ``account`` that ``query`` names, and whether there are more. ``ApiError`` 400 for a bad cursor."""
        table = vector_stores.c
        rows, has_more = await self._page(vector_stores, table.account == account, table.id, query)
        return [_store(row) for row in rows], has_more

    async def update(self, store: VectorStore, changes: Json) -> VectorStore:
        """Change ``name``, ``metadata`` or ``expires_after_days``, which count as activity."""
        now = now_ms()
        changed = msgspec.structs.replace(store, **changes, last_active_at_ms=now)
        changed = msgspec.structs.replace(changed, expires_at_ms=_expiry(now, changed.expires_after_days))
        # Nothing else is written: another request may have changed it since ``store`` was read.
        values = _used(now) | changes
        if "metadata" in changes:
            values["metadata"] = msgspec.json.encode(changed.metadata)
        if "expires_after_days" in changes:
            values["expires_at_ms"] = changed.expires_at_ms
        async with self._database.writing() as connection:
            query = update(vector_stores).where(vector_stores.c.id == store.id).values(values)
            if not (await connection.execute(query)).rowcount:
                raise no_such_store(store.id)
        return changed

    async def touch(self, store: VectorStore) -> None:
        """Note that the store was used, which puts off its end."""
        touched = update(vector_stores).where(vector_stores.c.id == store.id).values(_used(now_ms()))
        async with self._database.writing() as connection:
            await connection.execute(touched)

    async def delete(self, store_id: str) -> bool:
        """Remove a store with its files and batches; False if another request has."""
        async with self._database.writing() as connection:
            gone = await connection.execute(delete(vector_stores).where(vector_stores.c.id == store_id))
            await _remove_contents(connection, store_id)
        return bool(gone.rowcount)

    async def counts(self, store_ids: Sequence[str], *, batch_id: str | None = None) -> dict[str, FileCounts]:
        """Return the counts of each store, or of one batch of it."""
        table = vector_store_files.c
        query = (
            select(table.vector_store_id, table.status, func.count(), func.sum(table.usage_bytes))
            .where(table.vector_store_id.in_(store_ids))
            .group_by(table.vector_store_id, table.status)
        )
        if batch_id is not None:
            query = query.where(table.batch_id == batch_id)
        async with self._database.reading() as connection:
            rows = (await connection.execute(query)).all()
        found = dict.fromkeys(store_ids, FileCounts())
        for store_id, status, count, num_bytes in rows:
            known = found[store_id]
            found[store_id] = FileCounts(
                {**known.by_status, status: int(count)}, known.usage_bytes + int(num_bytes or 0)
            )
        return found

    async def add_files(self, store: VectorStore, new: Sequence[NewStoreFile], batch_id: str | None = None) -> None:
        """Put files into a store, to be read; one that is there already is read anew.

        With ``batch_id`` a batch of them is made. ``ApiError`` 404 for a store that is gone, 400 for too many files.
        """
        now = now_ms()
        rows = [_new_row(store, file, batch_id, now) for file in new]
        table = vector_store_files.c
        async with self._database.writing() as connection:
            # The first statement takes the store's row, so that a store that is deleted meanwhile gets no files.
            touched = update(vector_stores).where(vector_stores.c.id == store.id).values(_used(now))
            if not (await connection.execute(touched)).rowcount:
                raise no_such_store(store.id)
            again = delete(vector_store_files).where(
                table.vector_store_id == store.id, table.file_id.in_([row["file_id"] for row in rows])
            )
            await connection.execute(again)
            held = select(func.count()).where(table.vector_store_id == store.id)
            if (await connection.execute(held)).scalar_one() + len(rows) > self._settings.max_files:
                raise too_many_store_files(self._settings.max_files)
            if batch_id is not None:
                batch = {"id": batch_id, "vector_store_id": store.id, "created_at_ms": now, "is_cancelled": False}
                await connection.execute(insert(vector_store_batches).values(batch))
            await connection.execute(insert(vector_store_files), rows)

    async def find_file(self, store_id: str, file_id: str) -> StoreFile | None:
        """Return a file of a store, None if it is not in it."""
        rows = await self._rows(select(vector_store_files).where(_is_file(store_id, file_id)))
        return _file(rows[0]) if rows else None

    async def file_page(
        self, store_id: str, query: PageQuery, *, status: str | None = None, batch_id: str | None = None
    ) -> tuple[list[StoreFile], bool]:
        """Return the files that ``query`` names, and whether there are more. ``ApiError`` 400 for a bad cursor."""
        table = vector_store_files.c
        whole = table.vector_store_id == store_id
        if batch_id is not None:
            whole = and_(whole, table.batch_id == batch_id)
        narrowed = () if status is None else (table.status == status,)
        rows, has_more = await self._page(vector_store_files, whole, table.file_id, query, narrowed)
        return [_file(row) for row in rows], has_more

    async def with_status(self, pairs: AbstractSet[tuple[str, str]], status: FileStatus) -> set[tuple[str, str]]:
        """Return those of the pairs of store and file whose file is in the store and has the status."""
        table = vector_store_files.c
        stores, names = {store for store, _ in pairs}, {name for _, name in pairs}
        query = select(table.vector_store_id, table.file_id).where(
            table.vector_store_id.in_(stores), table.file_id.in_(names), table.status == status
        )
        async with self._database.reading() as connection:
            return {(row[0], row[1]) for row in (await connection.execute(query)).all()} & pairs

    async def set_attributes(self, store_id: str, file_id: str, attributes: Mapping[str, Any]) -> bool:
        """Replace a file's attributes; False if it is gone."""
        values = {"attributes": msgspec.json.encode(attributes)}
        return await self._update_file(_is_file(store_id, file_id), values)

    async def remove_file(self, store_id: str, file_id: str) -> bool:
        """Take a file out of a store; False if another request has."""
        async with self._database.writing() as connection:
            gone = await connection.execute(delete(vector_store_files).where(_is_file(store_id, file_id)))
        return bool(gone.rowcount)

    async def find_batch(self, store_id: str, batch_id: str) -> FileBatch | None:
        """Return a batch of a store, None if it has none of this id."""
        table = vector_store_batches.c
        query = select(vector_store_batches).where(table.id == batch_id, table.vector_store_id == store_id)
        rows = await self._rows(query)
        return FileBatch(**cast("Json", rows[0])) if rows else None

    async def cancel_batch(self, batch: FileBatch) -> None:
        """Stop reading what of a batch is not read yet."""
        table = vector_store_files.c
        async with self._database.writing() as connection:
            stopped = await connection.execute(
                update(vector_store_files)
                .where(table.batch_id == batch.id, table.status == _IN_PROGRESS)
                .values(status="cancelled")
            )
            if stopped.rowcount:
                cancelled = update(vector_store_batches).where(vector_store_batches.c.id == batch.id)
                await connection.execute(cancelled.values(is_cancelled=True))

    async def claim(self, without: AbstractSet[str] = frozenset()) -> StoreFile | None:
        """Take the oldest file that nobody reads and no account in ``without`` has, for ``LEASE_MS``; None if there is none."""
        table = vector_store_files.c
        now = now_ms()
        free = and_(table.status == _IN_PROGRESS, table.leased_until_ms <= now, table.account.not_in(without))
        oldest = select(vector_store_files).where(free).order_by(table.created_at_ms, table.file_id).limit(1)
        while True:
            rows = await self._rows(oldest)
            if not rows:
                return None
            found = _file(rows[0])
            mine = and_(_is_file(found.vector_store_id, found.file_id), free)
            if await self._update_file(mine, {"leased_until_ms": now + LEASE_MS}):
                return found

    async def keep(self, file: StoreFile) -> bool:
        """Say that a claimed file is still being read; False if it need not be any more."""
        return await self._update_file(_is_same(file), {"leased_until_ms": now_ms() + LEASE_MS})

    async def release(self, file: StoreFile, wait_s: float = 0.0) -> None:
        """Let any process read a claimed file, after ``wait_s``; until then others come first."""
        await self._update_file(_is_same(file), {"leased_until_ms": now_ms() + round(wait_s * 1000) if wait_s else 0})

    async def complete(self, file: StoreFile, usage_bytes: int) -> bool:
        """Note that a claimed file is in the index; False if it was cancelled or removed meanwhile."""
        return await self._update_file(_is_same(file), {"status": "completed", "usage_bytes": usage_bytes})

    async def fail(self, file: StoreFile, error: UnreadableFile) -> None:
        """Note why a claimed file could not be read."""
        values = {"status": "failed", "error_code": error.code, "error_message": error.message[:2000]}
        await self._update_file(_is_same(file), values)

    async def without_file(self, most: int) -> list[tuple[str, str]]:
        """Return up to ``most`` pairs of store and file whose file was deleted."""
        table = vector_store_files.c
        query = (
            select(table.vector_store_id, table.file_id)
            .outerjoin(files, files.c.id == table.file_id)
            .where(files.c.id.is_(None))
            .limit(most)
        )
        async with self._database.reading() as connection:
            return [(row[0], row[1]) for row in (await connection.execute(query)).all()]

    async def stores_of(self, file_id: str) -> list[str]:
        """Return the stores that a file is in."""
        query = select(vector_store_files.c.vector_store_id).where(vector_store_files.c.file_id == file_id)
        async with self._database.reading() as connection:
            return list((await connection.execute(query)).scalars())

    async def empty_expired(self) -> list[str]:
        """Remove the files of stores past their time, and rows of stores long past it; return the former's ids."""
        table = vector_stores.c
        held = select(vector_store_files.c.vector_store_id)
        now = now_ms()
        async with self._database.writing() as connection:
            query = select(table.id).where(table.expires_at_ms <= now, table.id.in_(held))
            expired = list((await connection.execute(query)).scalars())
            for store_id in expired:
                await _remove_contents(connection, store_id)
            await connection.execute(delete(vector_stores).where(table.expires_at_ms <= now - _FORGET_AFTER_MS))
        return expired

    async def known(self, store_ids: Sequence[str]) -> set[str]:
        """Return those of ``store_ids`` that have a row."""
        query = select(vector_stores.c.id).where(vector_stores.c.id.in_(store_ids))
        async with self._database.reading() as connection:
            return set((await connection.execute(query)).scalars())

    async def _update_file(self, condition: Any, values: Json) -> bool:
        async with self._database.writing() as connection:
            done = await connection.execute(update(vector_store_files).where(condition).values(values))
        return bool(done.rowcount)

    async def _rows(self, query: Any) -> Sequence[RowMapping]:
        async with self._database.reading() as connection:
            return (await connection.execute(query)).mappings().all()

    async def _page(
        self, table: Table, whole: Any, name: Any, query: PageQuery, narrowed: Sequence[Any] = ()
    ) -> tuple[list[RowMapping], bool]:
        listing = Listing(select(table).where(whole), [table.c.created_at_ms, name], name, query, narrowed)
        async with self._database.reading() as connection:
            return await listing.page(connection)


def now_ms() -> int:
    return int(time.time() * 1000)


def _expiry(from_ms: int, days: int | None) -> int | None:
    return None if days is None else from_ms + days * _DAY_MS


def _used(now: int) -> Json:
    """Return what changes in a store's row when it is used."""
    # Of the row as it is by then. Without an expiry the sum is null.
    days = sql_cast(vector_stores.c.expires_after_days, BigInteger)
    return {"last_active_at_ms": now, "expires_at_ms": days * _DAY_MS + now}


def _is_file(store_id: str, file_id: str) -> Any:
    return and_(vector_store_files.c.vector_store_id == store_id, vector_store_files.c.file_id == file_id)


def _is_same(file: StoreFile) -> Any:
    """A file that is still to be read and was not added anew since it was claimed."""
    table = vector_store_files.c
    same = _is_file(file.vector_store_id, file.file_id)
    return and_(same, table.created_at_ms == file.created_at_ms, table.status == _IN_PROGRESS)


async def _remove_contents(connection: AsyncConnection, store_id: str) -> None:
    for table in (vector_store_files, vector_store_batches):
        await connection.execute(delete(table).where(table.c.vector_store_id == store_id))


def _new_row(store: VectorStore, file: NewStoreFile, batch_id: str | None, now: int) -> Json:
    return {
        **msgspec.structs.asdict(file),
        "attributes": msgspec.json.encode(file.attributes),
        "vector_store_id": store.id,
        "account": store.account,
        "batch_id": batch_id,
        "status": _IN_PROGRESS,
        "created_at_ms": now,
        "usage_bytes": 0,
        "leased_until_ms": 0,
    }


def _store(row: RowMapping) -> VectorStore:
    values = dict(cast("Json", row))
    return VectorStore(**values | {"metadata": msgspec.json.decode(values["metadata"])})


def _file(row: RowMapping) -> StoreFile:
    values = {name: value for name, value in cast("Json", row).items() if name != "leased_until_ms"}
    return StoreFile(**values | {"attributes": msgspec.json.decode(values["attributes"])})
