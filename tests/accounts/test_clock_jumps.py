"""The machine's clock is set forwards and backwards while a server answers (``faketime``)."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import antiphon

pytestmark = pytest.mark.slow

SERVER = """
import asyncio, json, os, sys, time
from pathlib import Path
from antiphon.accounts import Accounts, AccountSettings, KeyBudget, ModelPrice, Outcome, Principal
from antiphon.accounts.keys import KeyStore
from antiphon.accounts.reports import UsageQuery
from antiphon.protocol.errors import ApiError
from antiphon.protocol.events import Usage

home, clock = Path(sys.argv[1]), Path(sys.argv[2])

def set_clock(offset: str) -> None:
    draft = clock.with_suffix(".new")
    draft.write_text(offset + "\\n")
    draft.replace(clock)

async def ask(accounts, authorization) -> str:
    try:
        principal = await accounts.authenticate(authorization)
        admission = await accounts.admit(principal, model="m", kind="chat", estimated_tokens=1, request_id="req_1")
    except ApiError as error:
        return str(error.code or error.status)
    usage = Usage(1, 0)
    await admission.settle(Outcome(request_id="req_1", started_at=time.time(), duration_s=0.0, usage=usage, model="m"))
    return "ok"

async def main() -> None:
    settings = AccountSettings(rpd=8, redis_url=sys.argv[3] or None, prices={"m": ModelPrice(input=1.0)})
    accounts = await Accounts.open(settings, home)
    store = await KeyStore.open(accounts.engine, None, home)
    limited, _ = await store.create(Principal(name="limited"))
    daily, _ = await store.create(Principal(name="daily", budget=KeyBudget(usd=2e-6, period="day")))
    expires_at_ms = int(time.time() * 1000) + 3_600_000
    brief, _ = await store.create(Principal(name="brief", expires_at_ms=expires_at_ms))
    told = []
    for offset in ("+0", "+2d", "-400d", "+10y", "+0", "-25y", "+0"):
        set_clock(offset)
        keys = {"limited": limited, "daily": daily, "brief": brief}
        answers = {name: [await ask(accounts, f"Bearer {key}") for _ in range(2)] for name, key in keys.items()}
        told.append({"year": time.gmtime().tm_year, **answers})
    await accounts.flush()
    (total,) = await accounts.report(UsageQuery())
    statistics = accounts.statistics()
    print(json.dumps({"told": told, "rows": total.num_requests, "refused": statistics.ledger.refused_total,
                      "in_flight": statistics.limiter.in_flight}))
    await accounts.aclose()

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def library() -> str:
    """The library of the Debian package ``faketime``."""
    found = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
    if found is None:
        reason = "faketime is not installed (Debian: apt-get install faketime)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return str(found)


@pytest.fixture
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="antiphon-clock-") as folder:
        yield Path(folder)


def run(library: str, home: Path, redis_url: str) -> dict[str, Any]:
    """Run the server under a clock that it sets itself; time that only passes (the monotonic clock) is left alone."""
    clock = home / "clock"
    clock.write_text("+0\n")
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(antiphon.__file__).parents[1]),
        "LD_PRELOAD": library,
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    command = [sys.executable, "-c", SERVER, str(home / "data"), str(clock), redis_url]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("is_shared", [False, True])
def test_limits_budgets_and_keys_under_a_clock_that_jumps(
    library: str, home: Path, request: pytest.FixtureRequest, is_shared: bool
) -> None:
    """Limits count time that passed and not what a clock shows; budgets and expiry follow the calendar; each request has a row."""
    result = run(library, home, request.getfixturevalue("redis_url") if is_shared else "")
    told = result["told"]
    years = [step["year"] for step in told]
    assert years[3] - years[0] == 10
    assert years[0] - years[5] == 25
    limited = [answer for step in told for answer in step["limited"]]
    assert limited == ["ok"] * 8 + ["rate_limit_exceeded"] * 6
    spent, fresh = ["insufficient_quota"] * 2, ["ok"] * 2
    # Two requests a day. What was spent under a date in the future was spent: it counts once the clock is set back.
    assert [step["daily"] for step in told] == [fresh, fresh, spent, fresh, spent, spent, spent]
    expired = [step["brief"][0] for step in told[:4]]
    assert expired == ["ok", "invalid_api_key", "ok", "invalid_api_key"]
    # A wrong key leaves no row; every other request does, whatever year it was.
    assert result["rows"] == sum(
        answer != "invalid_api_key" for step in told for n in ("limited", "daily", "brief") for answer in step[n]
    )
    assert (result["refused"], result["in_flight"]) == (0, 0)
