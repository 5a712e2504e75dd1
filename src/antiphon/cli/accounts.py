"""Shared by the commands about accounts: finding the server's database, and reading times and dates."""

import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from sqlalchemy.ext.asyncio import AsyncEngine

from antiphon.accounts import AccountSettings
from antiphon.accounts.database import database_errors, open_database
from antiphon.errors import AntiphonError
from antiphon.server.configuration import load_configuration

_UNITS = {"h": "hours", "d": "days", "w": "weeks"}


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class DatabaseOptions:
    """Which database; the same settings as the server's."""

    config: Annotated[Path | None, Parameter(help="The server's TOML file. [default: ANTIPHON_CONFIG]")] = None
    database_url: Annotated[
        str | None, Parameter(help="Database to use instead of the configured one: sqlite:///path or postgresql://...")
    ] = None


@dataclass(frozen=True)
class Opened:
    """A database at the newest revision, with the settings and the home that it was opened with."""

    engine: AsyncEngine
    settings: AccountSettings
    home: Path


@asynccontextmanager
async def opened(source: DatabaseOptions | None) -> AsyncGenerator[Opened]:
    """Open the database for the length of a command."""
    source = source or DatabaseOptions()
    configuration = load_configuration(file=source.config, options={"accounts": {"database_url": source.database_url}})
    engine = await open_database(configuration.accounts.database_url, configuration.home)
    try:
        with database_errors(engine.url):
            yield Opened(engine, configuration.accounts, configuration.home)
    finally:
        await engine.dispose()


def span(text: str) -> timedelta | None:
    """Return ``12h``, ``30d``, ``2w`` as a length of time; None for anything else."""
    match = re.fullmatch(r"(\d{1,5})([hdw])", text.strip())
    return timedelta(**{_UNITS[match[2]]: int(match[1])}) if match else None


def moment(text: str) -> datetime | None:
    """Return a date or time in ISO form, in UTC unless it has an offset; None for anything else."""
    try:
        parsed = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def milliseconds(at: datetime) -> int:
    """Return Unix milliseconds."""
    return round(at.timestamp() * 1000)


def day(at_ms: int) -> str:
    """Return the UTC date."""
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d}"


def bad_option(name: str, value: str, wanted: str) -> AntiphonError:
    """Return the error for an option that cannot be read."""
    return AntiphonError(f"--{name} is {value!r}", hint=f"write {wanted}")
