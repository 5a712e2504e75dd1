"""The table of keys: create, list, revoke, rotate. Every change is one transaction that also raises the generation."""

import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import msgspec
from sqlalchemy import RowMapping, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from antiphon.accounts.database import is_sqlite
from antiphon.accounts.errors import AccountError, masked
from antiphon.accounts.principal import KeyBudget, Principal
from antiphon.accounts.schema import key_state, keys
from antiphon.accounts.secret import KeyHasher, load_hasher, new_key
from antiphon.accounts.settings import Limits
from antiphon.accounts.watch.base import CHANNEL


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A key as the database knows it; ``hint`` is its masked form. Times are Unix milliseconds."""

    principal: Principal
    digest: bytes
    hint: str
    created_at_ms: int
    revoked_at_ms: int | None

    def state(self, now_ms: int) -> str:
        """Return ``active``, ``expired`` or ``revoked``."""
        if self.revoked_at_ms is not None:
            return "revoked"
        expires_at_ms = self.principal.expires_at_ms
        return "active" if expires_at_ms is None or now_ms < expires_at_ms else "expired"


class KeyStore:
    """Reads and changes keys. The secret itself is returned once, by ``create`` and ``rotate``, and kept nowhere."""

    def __init__(self, engine: AsyncEngine, hasher: KeyHasher) -> None:
        self._engine = engine
        self._hasher = hasher

    @classmethod
    async def open(cls, engine: AsyncEngine, key_secret_file: str | None, home: Path) -> Self:
        """Return the keys in ``engine``'s database, whose secret is in ``key_secret_file`` or in ``home``.

        Raises ``AccountError`` when they were made with another secret.
        """
        store = cls(engine, load_hasher(Path(key_secret_file) if key_secret_file else home / "key-secret"))
        await store.adopt_secret()
        return store

    @property
    def hasher(self) -> KeyHasher:
        return self._hasher

    async def adopt_secret(self) -> None:
        """Tie the database to the secret at first use; raise ``AccountError`` if it is tied to another."""
        check = self._hasher.check()
        async with self._engine.begin() as connection:
            unclaimed = update(key_state).where(key_state.c.secret_check.is_(None))
            await connection.execute(unclaimed.values(secret_check=check))
            known = (await connection.execute(select(key_state.c.secret_check))).scalar_one()
        if known != check:
            raise AccountError(
                "The key secret is not the one that the keys in this database were made with",
                hint="Copy the file key-secret from the server that made them, or name it with key_secret_file.",
            )

    async def create(self, principal: Principal) -> tuple[str, KeyRecord]:
        """Add a key for ``principal``, whose ``key_id`` is chosen here. Returns the key and its record.

        Raises ``AccountError`` if a key that was not revoked has this name.
        """
        key = new_key()
        principal = msgspec.structs.replace(principal, key_id=f"key_{secrets.token_hex(8)}")
        record = KeyRecord(
            principal=principal,
            digest=self._hasher.digest(key),
            hint=masked(key),
            created_at_ms=int(time.time() * 1000),
            revoked_at_ms=None,
        )
        async with self._changing() as connection:
            taken = select(keys.c.id).where(keys.c.name == principal.name, keys.c.revoked_at_ms.is_(None))
            if (await connection.execute(taken)).first() is not None:
                raise AccountError(
                    f"There is a key named {principal.name!r} already",
                    hint="Choose another name, or revoke or rotate that one.",
                )
            await connection.execute(insert(keys).values(_columns(record)))
        return key, record

    async def all(self) -> list[KeyRecord]:
        """Return every key ever made, oldest first."""
        async with self._engine.connect() as connection:
            rows = await connection.execute(select(keys).order_by(keys.c.created_at_ms, keys.c.id))
            return [_record(row) for row in rows.mappings()]

    async def find(self, name_or_id: str) -> KeyRecord:
        """Return the key with this id, or the one not revoked with this name. Raises ``AccountError`` if there is none."""
        for record in await self.all():
            principal = record.principal
            if principal.key_id == name_or_id or (principal.name == name_or_id and record.revoked_at_ms is None):
                return record
        raise AccountError(f"There is no key {name_or_id!r}", hint="`antiphon keys list` shows their names and ids.")

    async def revoke(self, name_or_id: str) -> KeyRecord:
        """Revoke a key: every server refuses it from its next request on."""
        record = await self.find(name_or_id)
        if record.revoked_at_ms is not None:
            raise AccountError(f"The key {name_or_id!r} is revoked already")
        await self._update(record, revoked_at_ms=int(time.time() * 1000))
        return record

    async def rotate(self, name_or_id: str) -> tuple[str, KeyRecord]:
        """Replace the secret of a key, which keeps its id, limits, budget and usage; the old secret ends at once."""
        record = await self.find(name_or_id)
        if record.revoked_at_ms is not None:
            raise AccountError(f"The key {name_or_id!r} is revoked", hint="Create a new one.")
        key = new_key()
        record = msgspec.structs.replace(record, digest=self._hasher.digest(key), hint=masked(key))
        await self._update(record, digest=record.digest, hint=record.hint)
        return key, record

    async def change(self, name_or_id: str, **changes: Any) -> KeyRecord:
        """Replace fields of a key's principal (``limits``, ``budget``, ``models``); its secret and usage stay.

        Raises ``AccountError`` for a key that is revoked or not there.
        """
        record = await self.find(name_or_id)
        if record.revoked_at_ms is not None:
            raise AccountError(f"The key {name_or_id!r} is revoked", hint="Create a new one.")
        record = msgspec.structs.replace(record, principal=msgspec.structs.replace(record.principal, **changes))
        await self._update(record, **_columns(record))
        return record

    async def _update(self, record: KeyRecord, **values: Any) -> None:
        async with self._changing() as connection:
            await connection.execute(update(keys).where(keys.c.id == record.principal.key_id).values(**values))

    @asynccontextmanager
    async def _changing(self) -> AsyncGenerator[AsyncConnection]:
        async with self._engine.begin() as connection:
            await connection.execute(update(key_state).values(generation=key_state.c.generation + 1))
            yield connection
            if not is_sqlite(self._engine.url):
                notify = text("SELECT pg_notify(:channel, generation::text) FROM key_state")
                await connection.execute(notify, {"channel": CHANNEL})


def _columns(record: KeyRecord) -> dict[str, Any]:
    principal = record.principal
    budget = principal.budget
    return {
        "id": principal.key_id,
        "name": principal.name,
        "digest": record.digest,
        "hint": record.hint,
        "created_at_ms": record.created_at_ms,
        "expires_at_ms": principal.expires_at_ms,
        "revoked_at_ms": record.revoked_at_ms,
        **msgspec.structs.asdict(principal.limits),
        "budget_usd": budget.usd if budget else None,
        "budget_period": budget.period if budget else None,
        "models": None if principal.models is None else ",".join(principal.models),
        "is_admin": principal.is_admin,
    }


def _record(row: RowMapping) -> KeyRecord:
    return KeyRecord(
        principal=Principal(
            key_id=row["id"],
            name=row["name"],
            limits=Limits(rpm=row["rpm"], tpm=row["tpm"], rpd=row["rpd"], concurrency=row["concurrency"]),
            budget=None if row["budget_usd"] is None else KeyBudget(usd=row["budget_usd"], period=row["budget_period"]),
            models=_models(row["models"]),
            is_admin=row["is_admin"],
            expires_at_ms=row["expires_at_ms"],
        ),
        digest=row["digest"],
        hint=row["hint"],
        created_at_ms=row["created_at_ms"],
        revoked_at_ms=row["revoked_at_ms"],
    )


def _models(column: str | None) -> tuple[str, ...] | None:
    return None if column is None else tuple(column.split(","))
