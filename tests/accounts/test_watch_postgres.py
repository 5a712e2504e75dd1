"""The watch over PostgreSQL when its connection breaks."""

from pathlib import Path

import asyncpg
import pytest
from tests.accounts.services import until

from antiphon.accounts.database import connect, migrate, resolve_url
from antiphon.accounts.watch import postgres as module
from antiphon.accounts.watch.postgres import PostgresWatch

pytestmark = pytest.mark.anyio


async def test_a_broken_connection_is_told_and_mended(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Cut off, the watch says that it does not know; when it listens again, the epoch is a new one."""
    monkeypatch.setattr(module, "HEARTBEAT_S", 0.01)
    engine = connect(resolve_url(postgres_url, tmp_path))
    await migrate(engine)
    await engine.dispose()
    watch = await PostgresWatch.open(engine.url)
    assert watch.epoch() == 0
    killer = await asyncpg.connect(postgres_url)
    await killer.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    await killer.close()
    await until(lambda: watch.epoch() is None)
    await until(lambda: watch.epoch() == 0)
    await watch.aclose()
