"""``antiphon usage``: who used what, and what it cost."""

import asyncio
import csv
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec
from cyclopts import Parameter

from antiphon.accounts.reports import Group, UsageQuery, UsageTotal, ids_of, totals
from antiphon.cli.accounts import DatabaseOptions, bad_option, day, milliseconds, moment, opened, span
from antiphon.cli.output import FORM
from antiphon.cli.tables import print_table
from antiphon.errors import AntiphonError

By = Literal["day", "key", "model"]
_GROUPS: dict[By, Group] = {"day": "time", "key": "key", "model": "model"}
_LABELS = {"bucket_ms", "key_id", "key_name", "model", "is_batch"}


def usage(
    *,
    by: Annotated[
        tuple[By, ...],
        Parameter(
            help="Group by one or more of these.",
            consume_multiple=True,
            negative="",
            show_default=" ".join,
        ),
    ] = ("day",),
    since: Annotated[str, Parameter(help="From when: 24h, 30d, 2w ago, or a date.")] = "30d",
    until: Annotated[str | None, Parameter(help="Until when, exclusive: a date. [default: now]")] = None,
    key: Annotated[str | None, Parameter(help="Only this key, by name or id.")] = None,
    model: Annotated[str | None, Parameter(help="Only this model.")] = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.", group=FORM)] = False,
    as_csv: Annotated[bool, Parameter(name="--csv", negative="", help="Print CSV.", group=FORM)] = False,
    source: DatabaseOptions | None = None,
) -> None:
    """Print requests, tokens, seconds of compute and dollars by day, key or model.

    Dollars count requests whose model has a price; the line below says how many had none. Saved is what answers out of the
    response cache would have cost. A running server's rows are there within a second.
    """
    query = UsageQuery(
        start_ms=_since(since),
        end_ms=None if until is None else _until(until),
        by=tuple(_GROUPS[name] for name in by),
        models=None if model is None else (model,),
    )
    if query.end_ms is not None and query.end_ms <= query.start_ms:
        raise AntiphonError(f"--until {until} is not after --since {since}", hint="choose a later --until")
    found = asyncio.run(_totals(source, query, key))
    if as_json:
        print(msgspec.json.format(msgspec.json.encode([_record(total, by) for total in found]), indent=2).decode())
    elif as_csv:
        _print_csv(found, by)
    elif not found:
        print(f"Nothing was used since {day(query.start_ms)}.")
    else:
        _print_table(found, by)


async def _totals(source: DatabaseOptions | None, query: UsageQuery, key: str | None) -> list[UsageTotal]:
    # The keys' secret is not needed to read what they used, so it is not asked for.
    async with opened(source) as db:
        if key is not None:
            query = msgspec.structs.replace(query, key_ids=await ids_of(db.engine, key))
        return await totals(db.engine, query)


def _since(text: str) -> int:
    length = span(text)
    at = datetime.now(UTC) - length if length is not None else moment(text)
    if at is None:
        raise bad_option("since", text, "a length of time (24h, 30d, 2w) or a date (2027-01-31)")
    return milliseconds(at)


def _until(text: str) -> int:
    at = moment(text)
    if at is None:
        raise bad_option("until", text, "a date (2027-01-31)")
    return milliseconds(at)


def _record(total: UsageTotal, by: tuple[By, ...]) -> dict[str, Any]:
    """Return the total as it is printed for programs, with the groups that were asked for."""
    told_apart: dict[By, dict[str, Any]] = {
        "day": {"day": None if total.bucket_ms is None else day(total.bucket_ms)},
        "key": {"key_id": total.key_id, "key": total.key_name},
        "model": {"model": total.model},
    }
    record: dict[str, Any] = {}
    for name in by:
        record |= told_apart[name]
    return record | {name: value for name, value in msgspec.structs.asdict(total).items() if name not in _LABELS}


def _print_csv(found: list[UsageTotal], by: tuple[By, ...]) -> None:
    labels = [field for name in by for field in (("key_id", "key") if name == "key" else (name,))]
    sums = [field for field in UsageTotal.__struct_fields__ if field not in _LABELS]
    writer = csv.DictWriter(sys.stdout, [*labels, *sums], lineterminator="\n")
    writer.writeheader()
    writer.writerows(_record(total, by) for total in found)


_COLUMNS: dict[str, Callable[[UsageTotal], str]] = {
    "requests": lambda total: f"{total.num_requests:,}",
    "failed": lambda total: f"{total.num_failed:,}",
    "input": lambda total: f"{total.prompt_tokens:,}",
    "cached": lambda total: f"{total.cached_tokens:,}",
    "output": lambda total: f"{total.completion_tokens:,}",
    "compute\ns": lambda total: _figure(total.compute_s, 1),
    "first\ntoken s": lambda total: _figure(total.mean_ttft_s, 3),
    "dollars": lambda total: _figure(total.usd, 6) + ("*" if total.num_unpriced else ""),
    "saved": lambda total: _figure(total.saved_usd, 6),
}


def _print_table(found: list[UsageTotal], by: tuple[By, ...]) -> None:
    # So that a terminal of 80 columns holds it: nothing about a cache that saved nothing.
    columns = {name: cell for name, cell in _COLUMNS.items() if name != "saved" or any(t.saved_usd for t in found)}
    rows = ([*_labels(total, by), *(cell(total) for cell in columns.values())] for total in found)
    print_table(by, list(columns), rows)
    if unpriced := sum(total.num_unpriced for total in found):
        print(f"* without {unpriced:,} requests whose model has no price; [accounts.prices] gives it one")
    if estimated := sum(total.num_estimated for total in found):
        print(f"with estimates for {estimated:,} requests whose API did not report its tokens")


def _labels(total: UsageTotal, by: tuple[By, ...]) -> list[str]:
    record = _record(total, by)
    return [str(record["key"] or record["key_id"] or "(no key)") if name == "key" else str(record[name]) for name in by]


def _figure(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"
