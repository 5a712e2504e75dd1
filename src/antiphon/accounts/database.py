"""Opening the database: SQLite in a file by default, PostgreSQL by URL; always at the newest revision."""

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from filelock import AsyncFileLock
from sqlalchemy import Connection, event, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from antiphon.accounts.errors import AccountError
from antiphon.errors import ConfigError
from antiphon.sqlite_file import keep_private, sqlite_hint

HEAD = "0016"
"""The newest revision; a test holds it to the files in ``migrations/versions``."""

_MIGRATION_LOCK = 0x616E7469  # "anti", a PostgreSQL advisory lock
_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}


def resolve_url(database_url: str | None, home: Path) -> URL:
    """Return the SQLAlchemy URL with its asyncio driver; None is ``antiphon.db`` in ``home``.

    Raises ``ConfigError`` for anything that is neither SQLite in a file nor PostgreSQL.
    """
    if database_url is None:
        return URL.create("sqlite+aiosqlite", database=str(home / "antiphon.db"))
    try:
        url = make_url(database_url)
    except ArgumentError:
        raise ConfigError("database_url is not a URL", hint="Write sqlite:///path or postgresql://host/name.") from None
    driver = _DRIVERS.get(url.drivername.partition("+")[0])
    if driver is None:
        raise ConfigError(
            f"database_url has the scheme {url.drivername!r}; Antiphon keeps accounts in SQLite or PostgreSQL",
            hint="Write sqlite:///path or postgresql://user:password@host/name.",
        )
    if driver.startswith("sqlite") and (not url.database or url.database == ":memory:"):
        raise ConfigError("database_url names no file", hint="Write sqlite:////absolute/path/antiphon.db.")
    return url.set(drivername=driver)


def connect(url: URL) -> AsyncEngine:
    """Return an engine. SQLite in WAL mode: readers never wait, a commit survives a killed process."""
    if is_sqlite(url):
        assert url.database is not None
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        keep_private(Path(url.database))
        engine = create_async_engine(url, connect_args={"timeout": 30})
        event.listen(engine.sync_engine, "connect", _sync_less)
        return engine
    try:
        return create_async_engine(url, pool_pre_ping=True, pool_size=4, async_creator=partial(_connect_postgres, url))
    except ModuleNotFoundError as error:
        raise AccountError(
            "PostgreSQL needs the driver asyncpg, which is not installed", hint="pip install 'antiphon[postgres]'"
        ) from error


async def _connect_postgres(url: URL) -> Any:
    # asyncpg reads the whole URL itself, as for the watch over the keys: SQLAlchemy does not know libpq's sslmode and the like.
    import asyncpg  # noqa: PLC0415 - there only with the extra [postgres]

    connect: Any = getattr(asyncpg, "connect")  # noqa: B009 - an attribute access is checked against its open annotations
    return await connect(postgres_dsn(url))


def postgres_dsn(url: URL) -> str:
    """Return the URL, password included, as asyncpg reads it."""
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


def is_sqlite(url: URL) -> bool:
    return url.drivername.startswith("sqlite")


def _sync_less(connection: Any, _record: object) -> None:
    # With WAL a commit then survives a killed process without a flush to the disk; only a power cut can take the last ones.
    cursor = connection.cursor()
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()


async def open_database(database_url: str | None, home: Path) -> AsyncEngine:
    """Return an engine over the database, at the newest revision; the caller disposes of it.

    Raises ``ConfigError`` for a bad URL, ``AccountError`` for a database that cannot be reached or is too new.
    """
    url = resolve_url(database_url, home)
    with database_errors(url):
        engine = connect(url)
    try:
        with database_errors(url):
            await migrate(engine)
    except BaseException:
        await engine.dispose()
        raise
    return engine


@contextmanager
def database_errors(url: URL) -> Generator[None]:
    """Turn what the database or the operating system says in the block into ``AccountError``: one line and what to do."""
    try:
        yield
    except (SQLAlchemyError, OSError) as error:
        name = url.database if is_sqlite(url) else url.render_as_string(hide_password=True)
        said = error.strerror or error if isinstance(error, OSError) else cause(error)
        raise AccountError(f"The database {name} cannot be opened or used: {said}", hint=_hint(url, error)) from error


def _hint(url: URL, error: Exception) -> str:
    if not is_sqlite(url):
        return "Check database_url, and that the server runs."
    if isinstance(error, OSError):
        return "Check database_url and ANTIPHON_HOME, and that the folder can be written."
    return sqlite_hint(cause(error))


def cause(error: Exception) -> BaseException | None:
    """Return what the database said: SQLAlchemy's own text adds the statement, its values and a link."""
    return error.orig if isinstance(error, DBAPIError) else error


async def migrate(engine: AsyncEngine) -> None:
    """Bring the database to the newest revision; several processes may do it at once.

    Raises ``AccountError`` for a database that a newer Antiphon wrote.
    """
    async with _one_at_a_time(engine):
        async with engine.connect() as connection:
            revision = await connection.run_sync(_revision)
        if revision != HEAD:
            async with engine.begin() as connection:
                await connection.run_sync(_upgrade)


@asynccontextmanager
async def _one_at_a_time(engine: AsyncEngine) -> AsyncGenerator[None]:
    if is_sqlite(engine.url):
        async with AsyncFileLock(f"{engine.url.database}.lock"):
            # Kept in the file from then on. Two processes that switch at once would fail, whatever their timeout.
            async with engine.connect() as connection:
                await connection.exec_driver_sql("PRAGMA journal_mode=WAL")
            yield
        return
    async with engine.connect() as connection:
        await _advisory(connection, "pg_advisory_lock")
        try:
            yield
        finally:
            await _advisory(connection, "pg_advisory_unlock")


async def _advisory(connection: AsyncConnection, function: str) -> None:
    await connection.execute(text(f"SELECT {function}({_MIGRATION_LOCK})"))
    await connection.commit()


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def _upgrade(connection: Connection) -> None:
    # Alembic takes a quarter of a second to import; most starts find the database up to date.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415
    from alembic.util import CommandError  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", "antiphon.accounts:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise AccountError(
            f"The database is at revision {_revision(connection)!r}, which this version of Antiphon does not know",
            hint="Upgrade Antiphon, or name another database.",
        ) from error
