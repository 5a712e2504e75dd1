"""Who answers in a conversation: one response at a time, over all processes.

A claim is a moment in the conversation's row until which it is taken, and a word of its holder's own. The holder moves the
moment on while it works; where its process ends, the claim does too, after ``LEASE_S``. A holder that is late (the database was
away, the process was stopped) goes on unless another one came in between: then its claim is lost.
"""

import asyncio
import contextlib
import secrets
import time
from typing import Self

from sqlalchemy import select, update

from antiphon.accounts.schema import conversations
from antiphon.accounts.store_database import StoreDatabase
from antiphon.protocol.errors import ApiError

LEASE_S = 15.0


class Claim:
    """A conversation that is taken. Use it as an async context manager, or ``release`` it; releasing twice does nothing.

    ``holder`` is what its row says while nobody else has taken it.
    """

    def __init__(self, database: StoreDatabase, conversation_id: str, holder: str) -> None:
        self._database = database
        self._conversation_id = conversation_id
        self.holder = holder
        self._ended = asyncio.Event()
        self._renewal = asyncio.create_task(self._renew())
        self._ending: asyncio.Future[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.release()

    async def release(self) -> None:
        """Let others answer. It happens even if the caller is cancelled; if the database refuses, the claim ends by itself."""
        if self._ending is None:
            self._ending = asyncio.ensure_future(self._end())
        await asyncio.shield(self._ending)

    async def _end(self) -> None:
        self._ended.set()
        await self._renewal
        with contextlib.suppress(ApiError):
            await self._move(0)

    async def _renew(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), LEASE_S / 3)
            if self._ended.is_set():
                return
            with contextlib.suppress(ApiError):
                await self._move(_end_ms())

    async def _move(self, until_ms: int) -> None:
        own = (conversations.c.id == self._conversation_id) & (conversations.c.taken_by == self.holder)
        async with self._database.writing() as connection:
            await connection.execute(update(conversations).where(own).values(taken_until_ms=until_ms))


async def claim(database: StoreDatabase, conversation_id: str, account: str) -> Claim | None:
    """Take a conversation of ``account``; None if there is none. ``ApiError`` 409 if another response has it, 503 without database."""
    own = (conversations.c.id == conversation_id) & (conversations.c.account == account)
    free = conversations.c.taken_until_ms <= _now_ms()
    holder = secrets.token_hex(16)
    change = update(conversations).where(own, free).values(taken_until_ms=_end_ms(), taken_by=holder)
    async with database.writing() as connection:
        is_taken = (await connection.execute(change)).rowcount > 0
        is_there = is_taken or (await connection.execute(select(conversations.c.id).where(own))).first() is not None
    if is_taken:
        # Only now: what is cancelled before, or fails, leaves nobody who renews the claim.
        return Claim(database, conversation_id, holder)
    if not is_there:
        return None
    raise conversation_locked(
        "Another process is currently operating on this conversation. Please retry in a few seconds."
    )


def conversation_locked(message: str) -> ApiError:
    """409, which the official client sends again by itself."""
    return ApiError(409, message, code="conversation_locked", headers={"retry-after": "1"})


def _end_ms() -> int:
    return _now_ms() + round(LEASE_S * 1000)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
