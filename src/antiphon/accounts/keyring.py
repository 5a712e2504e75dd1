"""The keys in memory: a snapshot of the table, read again whenever the watch reports a change."""

import asyncio
import hmac
import time
from collections.abc import Callable
from datetime import UTC, datetime

from sqlalchemy.exc import SQLAlchemyError

from antiphon.accounts.errors import ended_key, expired_key, incorrect_key, missing_key, store_unreachable
from antiphon.accounts.keys import KeyRecord, KeyStore
from antiphon.accounts.principal import OPEN, Principal
from antiphon.accounts.watch.base import KeyWatch

_SCHEME = "bearer "
_LONGEST_KEY = 256
"""Ours have 55 characters; hashing a header of megabytes would hold up everyone else."""


class Keyring:
    """Authenticates in a few microseconds, never from a stale snapshot."""

    def __init__(self, store: KeyStore, watch: KeyWatch, clock: Callable[[], float] = time.time) -> None:
        self.store = store
        self._digest = store.hasher.digest
        self.derive = store.hasher.derive
        self._watch = watch
        self._clock = clock
        self._records: dict[bytes, KeyRecord] = {}
        self._by_id: dict[str, KeyRecord] = {}
        self._is_open = True
        self._epoch: int | None = None
        self._reading = asyncio.Lock()

    @property
    def is_open(self) -> bool:
        """Whether no key was ever created, as of the last look; a revoked key does not open the server again."""
        return self._is_open

    async def find(self, key_id: str) -> KeyRecord | None:
        """Return the key with this id, whatever its state. Raises ``ApiError`` 503 without the database."""
        await self._look()
        return self._by_id.get(key_id)

    def name_of(self, key_id: str | None) -> str | None:
        """Return the name of a key as of the last look; None for a request without a key."""
        record = None if key_id is None else self._by_id.get(key_id)
        return None if record is None else record.principal.name

    async def has_keys(self) -> bool:
        """Return whether a key was ever created. Raises ``ApiError`` 503 without the database."""
        await self._look()
        return not self._is_open

    async def authenticate(self, authorization: str | None) -> Principal:
        """Return whose key is in the ``Authorization`` header. Raises ``ApiError`` 401, or 503 without the database."""
        await self._look()
        if self._is_open:
            return OPEN
        if authorization is None or authorization[: len(_SCHEME)].lower() != _SCHEME:
            raise missing_key()
        key = authorization[len(_SCHEME) :].strip()
        if not key:
            raise missing_key()
        if len(key) > _LONGEST_KEY:
            raise incorrect_key(key)
        return self._holder(key)

    async def _look(self) -> None:
        epoch = self._watch.epoch()
        if epoch is None or epoch != self._epoch:
            await self.refresh()

    def _holder(self, key: str) -> Principal:
        digest = self._digest(key)
        record = self._records.get(digest)
        # The lookup may take longer for a digest that is near a real one. Without the secret a digest cannot be
        # chosen, so its timing reveals nothing; the comparison that decides takes constant time anyway.
        if record is None or not hmac.compare_digest(record.digest, digest) or record.revoked_at_ms is not None:
            raise incorrect_key(key)
        principal = record.principal
        if principal.expires_at_ms is not None and self._clock() * 1000 >= principal.expires_at_ms:
            raise expired_key(key, f"{datetime.fromtimestamp(principal.expires_at_ms / 1000, UTC):%Y-%m-%d %H:%M} UTC")
        return principal

    async def principal_of(self, account: str) -> Principal:
        """Return who ``account`` is. Raises ``ApiError`` 401 for a key that was revoked or expired, 503 without the database."""
        epoch = self._watch.epoch()
        if epoch is None or epoch != self._epoch:
            await self.refresh()
        if account == OPEN.account:
            return OPEN
        now_ms = int(self._clock() * 1000)
        for record in self._records.values():
            if record.principal.key_id == account and record.state(now_ms) == "active":
                return record.principal
        raise ended_key()

    async def refresh(self) -> None:
        """Read the keys now. Raises ``ApiError`` 503 while the database cannot be read."""
        try:
            await self.load()
        except (SQLAlchemyError, OSError) as error:
            raise store_unreachable("key database") from error

    async def load(self) -> None:
        """Read the keys now. Raises what the database raises."""
        async with self._reading:
            # Asked before reading: a change that comes while we read makes the snapshot stale, not unnoticed.
            epoch = self._watch.epoch()
            if epoch is not None and epoch == self._epoch:
                return
            records = await self.store.all()
            self._records = {record.digest: record for record in records}
            self._by_id = {record.principal.key_id or "": record for record in records}
            self._is_open = not records
            self._epoch = epoch
