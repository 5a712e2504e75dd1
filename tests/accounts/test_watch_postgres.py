"""The watch over PostgreSQL when its connection breaks."""

import asyncio
from pathlib import Path

import asyncpg
import pytest
from tests.waiting import until

from antiphon.accounts.database import connect, migrate, resolve_url
from antiphon.accounts.watch import postgres as module
from antiphon.accounts.watch.postgres import PostgresWatch

pytestmark = pytest.mark.anyio


async def test_a_broken_connection_is_told_and_mended(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Cut off, the watch says that it does not know; when it listens again, the epoch is a new one."""
    may_listen, listen = asyncio.Event(), PostgresWatch._listen

    async def listen_when_allowed(self: PostgresWatch) -> None:
        await may_listen.wait()
        await listen(self)

    monkeypatch.setattr(module, "HEARTBEAT_S", 0.01)
    monkeypatch.setattr(PostgresWatch, "_listen", listen_when_allowed)
    may_listen.set()
    engine = connect(resolve_url(postgres_url, tmp_path))
    await migrate(engine)
    await engine.dispose()
    watch = await PostgresWatch.open(engine.url)
    assert watch.epoch() == 0
    may_listen.clear()
    killer = await asyncpg.connect(postgres_url)
    await killer.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    await killer.close()
    await until(lambda: watch.epoch() is None)
    may_listen.set()
    await until(lambda: watch.epoch() == 0)
    await watch.aclose()
