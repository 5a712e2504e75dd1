"""Accounts over a database in a temporary folder, and real Redis and PostgreSQL."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
from tests.accounts.services import postgres_server, redis_server

from antiphon.accounts import Accounts, AccountSettings
from antiphon.accounts.keys import KeyStore
from antiphon.accounts.secret import load_hasher


@pytest.fixture
async def accounts(tmp_path: Path) -> AsyncIterator[Accounts]:
    """Accounts without limits, over SQLite."""
    opened = await Accounts.open(AccountSettings(), tmp_path)
    yield opened
    await opened.aclose()


@pytest.fixture
def store(accounts: Accounts, tmp_path: Path) -> KeyStore:
    """The keys of ``accounts``, as the command line changes them."""
    return KeyStore(accounts.engine, load_hasher(tmp_path / "key-secret"))


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A Redis for the whole run; every test counts under names of its own."""
    with redis_server() as url:
        yield url


@pytest.fixture(scope="session")
def postgres_socket() -> Iterator[str]:
    """A PostgreSQL for the whole run."""
    with postgres_server() as socket:
        yield socket


@pytest.fixture
async def postgres_url(postgres_socket: str) -> str:
    """The database, emptied for each test."""
    connection = await asyncpg.connect(host=postgres_socket, user="antiphon", database="postgres")
    await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    await connection.close()
    return f"postgresql://antiphon@/postgres?host={postgres_socket}"


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database, once of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/accounts.db"
    return request.getfixturevalue("postgres_url")
