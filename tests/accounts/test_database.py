"""Opening databases: URLs, revisions, what the schema says."""

from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from antiphon.accounts import AccountError, Accounts, AccountSettings
from antiphon.accounts import migrations as migrations_package
from antiphon.accounts.database import HEAD, resolve_url
from antiphon.accounts.reports import UsageQuery
from antiphon.accounts.schema import metadata
from antiphon.errors import ConfigError

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("given", "driver"),
    [
        (None, "sqlite+aiosqlite"),
        ("sqlite:////tmp/a.db", "sqlite+aiosqlite"),
        ("postgresql://u:p@h/n", "postgresql+asyncpg"),
        ("postgres://u:p@h/n", "postgresql+asyncpg"),
        ("postgresql+psycopg://u:p@h/n", "postgresql+asyncpg"),
    ],
)
def test_urls_get_their_driver(given: str | None, driver: str, tmp_path: Path) -> None:
    """The plain schemes of SQLite and PostgreSQL are enough."""
    assert resolve_url(given, tmp_path).drivername == driver


@pytest.mark.parametrize("given", ["mysql://h/n", "nonsense", "sqlite://", "sqlite:///:memory:"])
def test_other_urls_are_refused(given: str, tmp_path: Path) -> None:
    """What accounts cannot be kept in is refused before anything starts."""
    with pytest.raises(ConfigError, match="database_url"):
        resolve_url(given, tmp_path)


def test_head_is_the_newest_revision() -> None:
    """The constant that lets a start skip Alembic is the last file in migrations/versions."""
    folder = str(Path(migrations_package.__file__).parent)
    assert ScriptDirectory(folder).get_current_head() == HEAD


async def test_the_revisions_make_what_the_schema_says(database_url: str, tmp_path: Path) -> None:
    """Alembic sees no difference between a migrated database and schema.py."""
    accounts = await Accounts.open(AccountSettings(database_url=database_url), tmp_path)

    def differences(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))

    async with accounts.engine.connect() as connection:
        assert await connection.run_sync(differences) == []
    await accounts.aclose()


async def test_rows_of_an_older_revision_are_kept(database_url: str, tmp_path: Path) -> None:
    """A database of the first revision is brought to the newest at the start, with its rows; what they saved is not known."""
    settings = AccountSettings(database_url=database_url)
    accounts = await Accounts.open(settings, tmp_path)
    async with accounts.engine.begin() as connection:
        await connection.run_sync(_downgrade_to, "0001")
        await connection.execute(
            text(
                "INSERT INTO usage (id, at_ms, request_id, kind, model_asked, status, prompt_tokens, completion_tokens, "
                "cached_tokens, reasoning_tokens, duration_s, usd) VALUES ('a', 1, 'req_1', 'chat', 'm', 200, 1, 1, 0, 0, 1.0, 2.0)"
            )
        )
    await accounts.aclose()
    accounts = await Accounts.open(settings, tmp_path)
    (total,) = await accounts.report(UsageQuery())
    assert (total.num_requests, total.usd, total.saved_usd) == (1, 2.0, None)
    await accounts.aclose()


def _downgrade_to(connection: Connection, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", "antiphon.accounts:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.downgrade(config, revision)


async def test_a_database_of_a_newer_version_is_refused(database_url: str, tmp_path: Path) -> None:
    """An unknown revision is not touched."""
    settings = AccountSettings(database_url=database_url)
    accounts = await Accounts.open(settings, tmp_path)
    async with accounts.engine.begin() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    await accounts.aclose()
    with pytest.raises(AccountError, match="revision '9999', which this version of Antiphon does not know"):
        await Accounts.open(settings, tmp_path)


async def test_a_database_that_is_not_there_says_where(tmp_path: Path) -> None:
    """The error names the database, without its password."""
    settings = AccountSettings(database_url=f"postgresql://user:hunter2@/n?host={tmp_path}")
    with pytest.raises(AccountError, match="cannot be opened") as caught:
        await Accounts.open(settings, tmp_path)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("option", ["sslmode=disable", "sslmode=prefer"])
async def test_options_of_libpq_are_understood(postgres_url: str, option: str, tmp_path: Path) -> None:
    """A URL as hosted databases give it out, with an sslmode, opens the database."""
    accounts = await Accounts.open(AccountSettings(database_url=f"{postgres_url}&{option}"), tmp_path)
    (total,) = await accounts.report(UsageQuery())
    await accounts.aclose()
    assert total.num_requests == 0


async def test_what_was_used_is_its_owners_alone_to_read(tmp_path: Path) -> None:
    """Whoever shares the machine reads neither the keys' names nor who asked for what."""
    accounts = await Accounts.open(AccountSettings(), tmp_path)
    await accounts.flush()
    modes = {name: (tmp_path / name).stat().st_mode & 0o077 for name in ("antiphon.db", "antiphon.db-wal")}
    await accounts.aclose()
    assert set(modes.values()) == {0}


async def test_the_secrets_file_may_be_named_below_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ``~`` is the user's home, as in every other setting that names a file."""
    monkeypatch.setenv("HOME", str(tmp_path))
    accounts = await Accounts.open(AccountSettings(key_secret_file="~/secret"), tmp_path)
    await accounts.aclose()
    assert (tmp_path / "secret").exists()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"redis_url": "localhost:6379"}, "redis_url"),
        ({"redis_away": "admit"}, "redis_url"),
        ({"price_provider": "opnai"}, "price_provider"),
        ({"rpm": 2**31}, "rpm"),
    ],
)
def test_settings_that_cannot_hold_are_refused(wrong: dict[str, object], says: str) -> None:
    """They are named at the start, not met with the first request or never."""
    with pytest.raises(ValueError, match=says):
        AccountSettings(**wrong)  # type: ignore[arg-type]
