"""How a process notices at once that another one created, revoked or rotated a key."""

from sqlalchemy.ext.asyncio import AsyncEngine

from antiphon.accounts.database import is_sqlite
from antiphon.accounts.watch.base import KeyWatch
from antiphon.accounts.watch.sqlite import SqliteWatch

__all__ = ["KeyWatch", "open_watch"]


async def open_watch(engine: AsyncEngine) -> KeyWatch:
    """Return the watch for the database behind ``engine``, which is at the newest revision."""
    if is_sqlite(engine.url):
        assert engine.url.database is not None
        return SqliteWatch(engine.url.database)
    # asyncpg is there only with the extra [postgres].
    from antiphon.accounts.watch.postgres import PostgresWatch  # noqa: PLC0415

    return await PostgresWatch.open(engine.url)
