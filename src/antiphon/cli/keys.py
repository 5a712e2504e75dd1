"""``antiphon keys``: who may use the server."""

import asyncio
import math
import sys
import time
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from cyclopts import App, Parameter

from antiphon.accounts import AccountError, KeyBudget, Limits, Principal
from antiphon.accounts.keys import KeyRecord, KeyStore
from antiphon.accounts.principal import BudgetPeriod
from antiphon.cli.accounts import DatabaseOptions, bad_option, day, milliseconds, moment, opened, span
from antiphon.cli.tables import print_table
from antiphon.errors import AntiphonError

app = App(name="keys", help="Create, list, revoke and rotate the server's keys; running servers follow at once.")

Name = Annotated[str, Parameter(help="The key's name or id.")]
Json = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")]


@app.command
def create(
    *,
    name: Annotated[str, Parameter(help="Name of the key.")],
    rpm: Annotated[int | None, Parameter(help="Requests per minute, per model.")] = None,
    tpm: Annotated[int | None, Parameter(help="Tokens per minute, per model.")] = None,
    rpd: Annotated[int | None, Parameter(help="Requests per day, per model.")] = None,
    concurrency: Annotated[int | None, Parameter(help="Requests in flight at once.")] = None,
    budget_usd: Annotated[float | None, Parameter(help="Dollars that the key may spend.")] = None,
    budget_period: Annotated[
        BudgetPeriod | None, Parameter(help="Period of the budget; days and months are in UTC. [default: total]")
    ] = None,
    models: Annotated[
        str | None, Parameter(help="Models that the key may use, separated by commas; patterns such as gpt-4o* work.")
    ] = None,
    expires: Annotated[str | None, Parameter(help="When the key expires: 12h, 30d, 2w, or a date.")] = None,
    admin: Annotated[bool, Parameter(negative="", help="May read the usage of all keys over the API.")] = False,
    source: DatabaseOptions | None = None,
) -> None:
    """Create a key and print it: once, on standard output and nowhere else."""
    principal = Principal(
        name=_named(name),
        limits=_limits(rpm=rpm, tpm=tpm, rpd=rpd, concurrency=concurrency),
        budget=_budget(budget_usd, budget_period),
        models=None if models is None else _models(models),
        is_admin=admin,
        expires_at_ms=None if expires is None else _expiry(expires),
    )
    key, record = asyncio.run(_create(source, principal))
    _show(key, f"Key {record.principal.key_id} ({name}). Keep it now: it is stored hashed and cannot be shown again.")
    if budget_usd is not None:
        print("Only models with a price spend a budget; give local ones a price in [accounts.prices].", file=sys.stderr)


@app.command(name="list")
def list_keys(*, as_json: Json = False, source: DatabaseOptions | None = None) -> None:
    """List every key ever made, with its limits; never the keys themselves."""
    records = asyncio.run(_all(source))
    if as_json:
        print(msgspec.json.format(msgspec.json.encode([_described(record) for record in records]), indent=2).decode())
        return
    if not records:
        print("No keys: a server on this machine accepts any. Create one with `antiphon keys create --name NAME`.")
        return
    headings = ("name", "id", "key", "state", "created", "expires", "limits", "budget", "models")
    print_table(headings, (), (_row(record) for record in records))


@app.command
def revoke(name: Name, /, *, source: DatabaseOptions | None = None) -> None:
    """Revoke a key. Every server refuses it at once."""
    record = asyncio.run(_revoke(source, name))
    print(f"Revoked {record.principal.name} ({record.principal.key_id}).")


@app.command
def rotate(name: Name, /, *, source: DatabaseOptions | None = None) -> None:
    """Replace a key's secret and print the new one; id, limits, budget and usage stay, the old secret ends at once."""
    key, record = asyncio.run(_rotate(source, name))
    _show(key, f"New secret of {record.principal.name} ({record.principal.key_id}). The old one no longer works.")


async def _create(source: DatabaseOptions | None, principal: Principal) -> tuple[str, KeyRecord]:
    async with opened(source) as db:
        store = await KeyStore.open(db.engine, db.settings.key_secret_file, db.home)
        return await store.create(principal)


async def _all(source: DatabaseOptions | None) -> list[KeyRecord]:
    async with opened(source) as db:
        return await (await KeyStore.open(db.engine, db.settings.key_secret_file, db.home)).all()


async def _revoke(source: DatabaseOptions | None, name: str) -> KeyRecord:
    async with opened(source) as db:
        return await (await KeyStore.open(db.engine, db.settings.key_secret_file, db.home)).revoke(name)


async def _rotate(source: DatabaseOptions | None, name: str) -> tuple[str, KeyRecord]:
    async with opened(source) as db:
        return await (await KeyStore.open(db.engine, db.settings.key_secret_file, db.home)).rotate(name)


def _show(key: str, words: str) -> None:
    # The key alone on standard output, so that KEY=$(antiphon keys create ...) works.
    print(words, file=sys.stderr)
    print(key)


def _limits(**limits: int | None) -> Limits:
    try:
        return Limits(**limits)
    except ValueError as error:
        raise AccountError(str(error)) from error


def _budget(usd: float | None, period: BudgetPeriod | None) -> KeyBudget | None:
    if usd is None:
        if period is not None:
            raise AntiphonError("--budget-period without a budget", hint="add --budget-usd")
        return None
    if not 0 < usd < math.inf:
        raise bad_option("budget-usd", str(usd), "dollars, more than 0")
    return KeyBudget(usd=usd, period=period or "total")


def _named(name: str) -> str:
    if not name.strip() or not name.isprintable() or len(name) > 200:  # noqa: PLR2004 - the column's width
        raise bad_option("name", name, "1 to 200 characters in one line")
    return name


def _models(text: str) -> tuple[str, ...]:
    models = tuple(part.strip() for part in text.split(",") if part.strip())
    if not models:
        raise bad_option("models", text, "names of models, separated by commas")
    return models


def _expiry(text: str) -> int:
    length = span(text)
    at = datetime.now(UTC) + length if length is not None else moment(text)
    if at is None:
        raise bad_option("expires", text, "a length of time (12h, 30d, 2w) or a date (2027-01-31)")
    if at <= datetime.now(UTC):
        raise AntiphonError(f"--expires is {text!r}, which is over", hint="choose a time in the future")
    return milliseconds(at)


def _described(record: KeyRecord) -> dict[str, Any]:
    principal = record.principal
    return {
        "id": principal.key_id,
        "name": principal.name,
        "key": record.hint,
        "state": record.state(int(time.time() * 1000)),
        "created_at_ms": record.created_at_ms,
        "expires_at_ms": principal.expires_at_ms,
        "revoked_at_ms": record.revoked_at_ms,
        **msgspec.structs.asdict(principal.limits),
        "budget_usd": principal.budget.usd if principal.budget else None,
        "budget_period": principal.budget.period if principal.budget else None,
        "models": principal.models,
        "is_admin": principal.is_admin,
    }


def _row(record: KeyRecord) -> list[str]:
    principal = record.principal
    limits = msgspec.structs.asdict(principal.limits)
    budget = principal.budget
    return [
        principal.name + (" (admin)" if principal.is_admin else ""),
        principal.key_id or "",
        record.hint,
        record.state(int(time.time() * 1000)),
        day(record.created_at_ms),
        "never" if principal.expires_at_ms is None else day(principal.expires_at_ms),
        ", ".join(f"{name} {value}" for name, value in limits.items() if value is not None) or "the server's",
        "none" if budget is None else f"${budget.usd:g} {budget.period}",
        "all" if principal.models is None else ", ".join(principal.models),
    ]
