"""What each key keeps, and the bounds on it: counted in the transaction that keeps or removes something."""

from typing import Any

from sqlalchemy import select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from antiphon.accounts.schema import file_usage
from antiphon.files.errors import storage_quota_exceeded
from antiphon.files.settings import FileSettings

EVERYBODY = ""
"""The account under which all accounts are counted together."""


async def take(
    connection: AsyncConnection, account: str, settings: FileSettings | None, *, num_bytes: int, num_files: int = 0
) -> None:
    """Count what ``account`` keeps from now on. ``ApiError`` 400 if that is more than it may; ``settings`` None: never."""
    for name in sorted((account, EVERYBODY)):  # always in one order, so that two transactions never wait for each other
        await _make_row(connection, name)
        if settings is None:
            counted = update(file_usage).where(file_usage.c.account == name)
            await connection.execute(_changed(counted, num_bytes, num_files))
            continue
        most_bytes = settings.max_bytes if name == EVERYBODY else settings.max_key_bytes
        fits = file_usage.c.num_bytes + num_bytes <= most_bytes
        if name != EVERYBODY:
            fits &= file_usage.c.num_files + num_files <= settings.max_key_files
        counted = update(file_usage).where((file_usage.c.account == name) & fits)
        if not (await connection.execute(_changed(counted, num_bytes, num_files))).rowcount:
            raise await _exceeded(connection, name, settings, num_bytes)


async def give_back(connection: AsyncConnection, account: str, *, num_bytes: int, num_files: int = 0) -> None:
    """Count what ``account`` keeps no longer."""
    for name in sorted((account, EVERYBODY)):
        counted = update(file_usage).where(file_usage.c.account == name)
        await connection.execute(_changed(counted, -num_bytes, -num_files))


async def room(connection: AsyncConnection, account: str, settings: FileSettings) -> int:
    """Return how many more bytes ``account`` may keep at the moment."""
    rows = await connection.execute(
        select(file_usage.c.account, file_usage.c.num_bytes).where(file_usage.c.account.in_((account, EVERYBODY)))
    )
    kept = {row.account: row.num_bytes for row in rows}
    return min(settings.max_key_bytes - kept.get(account, 0), settings.max_bytes - kept.get(EVERYBODY, 0))


def _changed(statement: Any, num_bytes: int, num_files: int) -> Any:
    return statement.values(num_bytes=file_usage.c.num_bytes + num_bytes, num_files=file_usage.c.num_files + num_files)


async def _make_row(connection: AsyncConnection, account: str) -> None:
    insert: Any = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert
    row = insert(file_usage).values(account=account, num_bytes=0, num_files=0)
    await connection.execute(row.on_conflict_do_nothing(index_elements=[file_usage.c.account]))


async def _exceeded(connection: AsyncConnection, name: str, settings: FileSettings, num_bytes: int) -> Exception:
    if name == EVERYBODY:
        return storage_quota_exceeded(settings.max_bytes, "bytes", "all keys together")
    row = await connection.execute(select(file_usage.c.num_bytes).where(file_usage.c.account == name))
    if row.scalar_one() + num_bytes > settings.max_key_bytes:
        return storage_quota_exceeded(settings.max_key_bytes, "bytes", "this key")
    return storage_quota_exceeded(settings.max_key_files, "files", "this key")
