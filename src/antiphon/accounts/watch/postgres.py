"""PostgreSQL: LISTEN on a connection of its own, and a heartbeat that notices when that connection is dead.

A change is heard within the time of a network round trip. If the connection breaks without a word, the heartbeat finds
out within ``HEARTBEAT_S + ANSWER_S``; from then on ``epoch`` is None until a new connection listens.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Protocol, Self

import asyncpg
import structlog
from sqlalchemy.engine import URL

from antiphon.accounts.database import postgres_dsn
from antiphon.accounts.watch.base import CHANNEL

HEARTBEAT_S = 1.0
ANSWER_S = 2
_GENERATION = "SELECT generation FROM key_state"

_log = structlog.get_logger("antiphon.accounts")


# asyncpg's own annotations leave most parameters open; this is what is used of it.
class _Connection(Protocol):
    async def add_listener(self, channel: str, callback: Callable[[Any, int, str, str], None]) -> None: ...
    async def fetchval(self, query: str) -> int: ...
    def is_closed(self) -> bool: ...
    def terminate(self) -> None: ...


class PostgresWatch:
    """Implements ``KeyWatch``; made by ``open``."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connection: _Connection | None = None
        self._generation = -1
        self._heart: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, url: URL) -> Self:
        """Connect and listen. Raises what asyncpg raises when the database is not there."""
        watch = cls(postgres_dsn(url))
        await watch._listen()
        watch._heart = asyncio.create_task(watch._beat(), name="antiphon-key-watch")
        return watch

    def epoch(self) -> int | None:
        if self._connection is None or self._connection.is_closed():
            return None
        return self._generation

    async def _listen(self) -> None:
        connect: Any = getattr(asyncpg, "connect")  # noqa: B009 - an attribute access is checked against those annotations
        connection: _Connection = await connect(self._dsn, timeout=ANSWER_S, command_timeout=ANSWER_S)
        await connection.add_listener(CHANNEL, self._heard)
        # Asked after listening began, so that no change falls between the two.
        self._generation = await connection.fetchval(_GENERATION)
        self._connection = connection

    def _heard(self, _connection: object, _pid: int, _channel: str, payload: str) -> None:
        self._generation = int(payload)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            try:
                if self._connection is None or self._connection.is_closed():
                    await self._listen()
                else:
                    self._generation = await self._connection.fetchval(_GENERATION)
            except Exception as error:  # noqa: BLE001 - any failure makes the generation unknown, and the heartbeat must go on
                _log.warning("key_watch_lost", error=repr(error))
                self._forget()

    def _forget(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    async def aclose(self) -> None:
        if self._heart is not None:
            self._heart.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._heart
            self._heart = None
        self._forget()
