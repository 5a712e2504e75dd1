"""The ledger: nothing is lost but the last moment of a killed process."""

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event, func, select, text
from tests.waiting import until

import antiphon
from antiphon.accounts import AccountError, Accounts, AccountSettings, Outcome
from antiphon.accounts.ledger import write_rows
from antiphon.accounts.reports import UsageQuery
from antiphon.accounts.schema import spend, usage
from antiphon.accounts.usage import UsageRow, new_row_id
from antiphon.protocol.errors import ApiError
from antiphon.protocol.events import Usage

pytestmark = pytest.mark.anyio


def row(at_ms: int = 1_700_000_000_000, *, usd: float | None = None, key_id: str | None = "key_1") -> UsageRow:
    return UsageRow(
        id=new_row_id(at_ms),
        at_ms=at_ms,
        request_id="req_1",
        key_id=key_id,
        kind="chat",
        model_asked="gpt-4o",
        model_answered="small",
        status=200,
        error_code=None,
        prompt_tokens=10,
        completion_tokens=5,
        cached_tokens=0,
        reasoning_tokens=0,
        cache=None,
        ttft_s=0.1,
        duration_s=0.5,
        compute_s=None,
        usd=usd,
        saved_usd=None,
    )


async def count(accounts: Accounts) -> int:
    async with accounts.engine.connect() as connection:
        return (await connection.execute(select(func.count()).select_from(usage))).scalar_one()


async def request(accounts: Accounts) -> None:
    principal = await accounts.authenticate(None)
    admission = await accounts.admit(principal, model="m", kind="chat", estimated_tokens=1, request_id="req_1")
    await admission.settle(Outcome(request_id="req_1", started_at=time.time(), duration_s=0.1, usage=Usage(1, 1)))


async def test_rows_are_there_soon_without_anybody_asking(accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger writes by itself, after one pause of a quarter of a second."""
    pauses: list[float] = []
    over = asyncio.Event()

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        await over.wait()

    monkeypatch.setattr(accounts._ledger, "_pause", pause)
    await request(accounts)
    await until(lambda: pauses == [0.25])
    assert await count(accounts) == 0
    over.set()
    await until(lambda: accounts.statistics().ledger.written_total == 1)
    assert await count(accounts) == 1


async def test_a_normal_stop_loses_nothing(database_url: str, tmp_path: Path) -> None:
    """Rows that wait when the server stops are written first."""
    settings = AccountSettings(database_url=database_url)
    accounts = await Accounts.open(settings, tmp_path)
    for _ in range(3_000):
        await request(accounts)
    await accounts.aclose()
    again = await Accounts.open(settings, tmp_path)
    assert await count(again) == 3_000
    await again.aclose()


async def test_a_commit_whose_answer_was_lost_is_not_repeated(database_url: str, tmp_path: Path) -> None:
    """Writing a batch again adds the missing rows alone, and their dollars once."""
    accounts = await Accounts.open(AccountSettings(database_url=database_url), tmp_path)
    first, second = row(usd=1.0), row(usd=2.0)
    await write_rows(accounts.engine, [first], is_retry=False)
    await write_rows(accounts.engine, [first, second], is_retry=True)
    assert await count(accounts) == 2
    async with accounts.engine.connect() as connection:
        assert (await connection.execute(select(spend.c.usd))).scalars().all() == [3.0]
    await accounts.aclose()


async def test_spend_is_kept_per_key_and_day(database_url: str, tmp_path: Path) -> None:
    """Rows of two keys and two days add up in three places; rows without a price or a key in none."""
    accounts = await Accounts.open(AccountSettings(database_url=database_url), tmp_path)
    day = 86_400_000
    rows = [row(day, usd=1.0), row(day + 5, usd=2.0), row(2 * day, usd=4.0), row(day, usd=8.0, key_id="key_2")]
    await write_rows(accounts.engine, [*rows, row(day), row(day, usd=16.0, key_id=None)], is_retry=False)
    async with accounts.engine.connect() as connection:
        saved = await connection.execute(select(spend.c.key_id, spend.c.day, spend.c.usd).order_by(spend.c.usd))
        assert [tuple(r) for r in saved] == [("key_1", 1, 3.0), ("key_1", 2, 4.0), ("key_2", 1, 8.0)]
    await accounts.aclose()


async def test_rows_wait_while_the_database_does_not_answer(accounts: Accounts) -> None:
    """A failed commit is counted and tried again until it works."""
    async with accounts.engine.begin() as connection:
        await connection.execute(text("ALTER TABLE usage RENAME TO away"))
    await request(accounts)
    await until(lambda: accounts.statistics().ledger.failures_in_a_row > 0)
    assert accounts.statistics().ledger.waiting == 1
    async with accounts.engine.begin() as connection:
        await connection.execute(text("ALTER TABLE away RENAME TO usage"))
    await until(lambda: accounts.statistics().ledger.written_total == 1)
    assert await count(accounts) == 1


ANSWERING = """
import asyncio, sys, time
from pathlib import Path
import antiphon
from antiphon.accounts import AccountError, Accounts, AccountSettings, Outcome

async def main() -> None:
    accounts = await Accounts.open(AccountSettings(), Path(sys.argv[1]))
    principal = await accounts.authenticate(None)
    while True:
        number = f"req_{time.time_ns()}"
        admission = await accounts.admit(principal, model="m", kind="chat", estimated_tokens=1, request_id=number)
        await admission.settle(Outcome(request_id=number, started_at=time.time(), duration_s=0.0))
        print(number, accounts.statistics().ledger.written_total, flush=True)
        await asyncio.sleep(0.001)

asyncio.run(main())
"""


def answer_and_be_killed(home: Path) -> tuple[set[str], set[str]]:
    """Return the requests that the ledger said were written, and those in the database after the kill."""
    source = str(Path(antiphon.__file__).parents[1])
    process = subprocess.Popen(
        [sys.executable, "-c", ANSWERING, str(home)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": source},
    )
    assert process.stdout is not None
    numbers: list[str] = []
    num_written, num_batches = 0, 0
    for line in process.stdout:
        number, written = line.split()
        numbers.append(number)
        num_batches += int(written) > num_written
        num_written = int(written)
        if num_batches == 5:
            break
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    database = sqlite3.connect(home / "antiphon.db")
    saved = {number for (number,) in database.execute("SELECT request_id FROM usage")}
    database.close()
    return set(numbers[:num_written]), saved


async def test_after_kill_9_all_that_was_written_is_there(tmp_path: Path) -> None:
    """A process killed under load has saved every row but those of its last batch, and the ledger opens."""
    owed, saved = answer_and_be_killed(tmp_path)
    assert len(owed) >= 5
    assert owed <= saved
    accounts = await Accounts.open(AccountSettings(), tmp_path)
    await request(accounts)
    await accounts.flush()
    assert await count(accounts) == len(saved) + 1
    await accounts.aclose()


async def test_rows_that_cannot_be_saved_at_the_end_are_told(tmp_path: Path) -> None:
    """A stop with the database away says how many rows are lost."""
    accounts = await Accounts.open(AccountSettings(), tmp_path)
    async with accounts.engine.begin() as connection:
        await connection.execute(text("ALTER TABLE usage RENAME TO away"))
    await request(accounts)
    with pytest.raises(AccountError, match="1 usage rows could not be written"):
        await accounts.aclose()


async def test_names_that_no_column_holds_are_cut_and_marked(database_url: str, tmp_path: Path) -> None:
    """Clients choose the model they ask for and upstreams the code of an error: neither can stop the ledger."""
    accounts = await Accounts.open(AccountSettings(database_url=database_url), tmp_path)
    principal = await accounts.authenticate(None)
    for model in ("m" * 5000, "a\0b", "\ud800"):
        admission = await accounts.admit(principal, model=model, kind="chat", estimated_tokens=1, request_id="req_1")
        await admission.settle(
            Outcome(request_id="req_1", started_at=time.time(), duration_s=0.1, model=model, error_code="c" * 2000)
        )
    await accounts.flush()
    async with accounts.engine.connect() as connection:
        columns = select(usage.c.model_asked, usage.c.model_answered, usage.c.error_code).order_by(usage.c.model_asked)
        found = [tuple(row) for row in await connection.execute(columns)]
    await accounts.aclose()
    code = "c" * 63 + "\u2026"
    assert sorted(found) == sorted((name, name, code) for name in ("?", "a\ufffdb", "m" * 255 + "\u2026"))


async def test_the_ledger_outlives_an_error_that_nobody_foresaw(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a commit raises, the rows wait and are tried again."""
    monkeypatch.setattr("antiphon.accounts.ledger.FLUSH_EVERY_S", 0.0)
    calls: list[int] = []

    async def refuse_once(*arguments: object, **options: bool) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise OverflowError("too large")
        await write_rows(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("antiphon.accounts.ledger.write_rows", refuse_once)
    await request(accounts)
    await until(lambda: accounts.statistics().ledger.written_total == 1)
    assert await count(accounts) == 1


def refused_rows() -> dict[str, UsageRow]:
    """Return rows whose values at least one of the databases cannot store."""
    replace = msgspec.structs.replace
    return {
        "an integer beyond 64 bits": replace(row(), prompt_tokens=2**64),
        "a missing value": replace(row(), request_id=None),  # type: ignore[arg-type]
        "a lone surrogate": replace(row(), model_asked="\ud800"),
        "a value of another type": replace(row(), duration_s=object()),  # type: ignore[arg-type]
    }


@pytest.mark.parametrize("kind", refused_rows())
@pytest.mark.parametrize("place", [0, 1, 2])
async def test_a_row_that_the_database_refuses_does_not_hold_up_the_others(
    database_url: str, tmp_path: Path, kind: str, place: int
) -> None:
    """Wherever it is in the batch, the other rows and their dollars are written, and it is in the log in full."""
    accounts = await Accounts.open(AccountSettings(database_url=database_url), tmp_path)
    rows = [row(usd=1.0), row(usd=2.0)]
    rows.insert(place, refused_rows()[kind])
    with structlog.testing.capture_logs() as logs:
        for each in rows:
            accounts._ledger.append(each)
        await accounts.flush()
    assert await count(accounts) == 2
    async with accounts.engine.connect() as connection:
        assert (await connection.execute(select(func.sum(spend.c.usd)))).scalar_one() == 3.0
    statistics = accounts.statistics().ledger
    assert (statistics.waiting, statistics.written_total, statistics.refused_total) == (0, 2, 1)
    (refused,) = [entry for entry in logs if entry["event"] == "usage_row_refused"]
    assert refused["row"]["id"] == rows[place].id
    await accounts.aclose()


@given(
    counts=st.tuples(*[st.integers(-(2**70), 2**70)] * 4),
    started_at=st.floats(),
    duration_s=st.floats(),
    texts=st.tuples(*[st.text(st.characters(), max_size=300)] * 3),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_whatever_a_request_was_its_row_can_be_written_and_added_up(
    accounts: Accounts,
    counts: tuple[int, int, int, int],
    started_at: float,
    duration_s: float,
    texts: tuple[str, str, str],
) -> None:
    """Counts of an upstream, times of a clock and texts of a client are bounded in the row: none is refused."""
    random.seed(os.urandom(16))  # Hypothesis makes the module repeatable, and with it the ids of the rows.
    principal = await accounts.authenticate(None)
    before = accounts.statistics().ledger.written_total
    admission = await accounts.admit(principal, model=texts[0], kind="chat", estimated_tokens=1, request_id="req_1")
    await admission.settle(
        Outcome(
            request_id=texts[1],
            started_at=started_at,
            duration_s=duration_s,
            model=texts[2],
            usage=Usage(*counts),
        )
    )
    await accounts.flush()
    assert accounts.statistics().ledger.written_total == before + 1
    assert accounts.statistics().ledger.refused_total == 0
    assert (await accounts.report(UsageQuery()))[0].num_requests == before + 1


async def test_sums_beyond_64_bits_are_reported(database_url: str, tmp_path: Path) -> None:
    """Rows of older versions may hold any number: their sum is no error of the database."""
    accounts = await Accounts.open(AccountSettings(database_url=database_url), tmp_path)
    rows = [msgspec.structs.replace(row(), prompt_tokens=2**62) for _ in range(4)]
    await write_rows(accounts.engine, rows, is_retry=False)
    (total,) = await accounts.report(UsageQuery())
    assert total.prompt_tokens == 2**64
    await accounts.aclose()


async def test_an_impossible_count_of_tokens_is_an_estimate(accounts: Accounts) -> None:
    """More tokens than any request can have are replaced by what was expected of the request, and the row says so."""
    principal = await accounts.authenticate(None)
    admission = await accounts.admit(
        principal, model="m", kind="chat", estimated_tokens=1, request_id="req_1", expected=Usage(7, 5)
    )
    usage_told = Usage(2_000 * 2**53, 3)
    await admission.settle(Outcome(request_id="req_1", started_at=time.time(), duration_s=0.1, usage=usage_told))
    (total,) = await accounts.report(UsageQuery())
    assert (total.prompt_tokens, total.completion_tokens, total.num_estimated) == (7, 5, 1)


async def test_rows_wait_while_the_disk_is_full(accounts: Accounts) -> None:
    """With no space left nothing is lost and nothing is refused: all rows are written once there is room again."""
    is_full = [True]

    def limit(connection: Any, _record: object) -> None:
        if is_full[0]:
            cursor = connection.cursor()
            cursor.execute("PRAGMA max_page_count = 1")  # as many as there are already: no room for another
            cursor.close()

    event.listen(accounts.engine.sync_engine, "connect", limit)
    await accounts.engine.dispose()
    for _ in range(3_000):
        await request(accounts)
    await until(lambda: accounts.statistics().ledger.failures_in_a_row > 1)
    with pytest.raises(ApiError) as caught:
        await accounts.report(UsageQuery())
    assert caught.value.status == 503
    is_full[0] = False
    await accounts.engine.dispose()
    await until(lambda: accounts.statistics().ledger.waiting == 0)
    assert await count(accounts) == 3_000
    assert accounts.statistics().ledger.refused_total == 0


async def test_a_database_that_is_damaged_while_the_server_runs_is_a_503(tmp_path: Path) -> None:
    """Reports are refused in one sentence, rows wait, and a stop says how many are lost and what the database said."""
    accounts = await Accounts.open(AccountSettings(), tmp_path)
    await request(accounts)
    await accounts.flush()
    await accounts.engine.dispose()
    path = tmp_path / "antiphon.db"
    path.write_bytes(b"not a database any more" * 1_000)
    for name in ("-wal", "-shm"):
        path.with_name(path.name + name).unlink(missing_ok=True)
    await request(accounts)
    with pytest.raises(ApiError) as caught:
        await accounts.report(UsageQuery())
    assert (caught.value.status, caught.value.message) == (
        503,
        "The server cannot reach its usage database, please try again later",
    )
    with pytest.raises(AccountError, match="1 usage rows could not be written: file is not a database"):
        await accounts.aclose()
