"""Two servers that share PostgreSQL and Redis behave like one."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.waiting import until

from antiphon.accounts import Accounts, AccountSettings, Admission, KeyBudget, ModelPrice, Outcome, Principal
from antiphon.accounts.keys import KeyStore
from antiphon.accounts.reports import UsageQuery
from antiphon.protocol.errors import ApiError
from antiphon.protocol.events import Usage

pytestmark = pytest.mark.anyio


@pytest.fixture
async def pair(postgres_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[list[Accounts]]:
    settings = AccountSettings(database_url=postgres_url, redis_url=redis_url, rpd=3)
    opened = [await Accounts.open(settings, tmp_path) for _ in range(2)]
    yield opened
    for accounts in opened:
        await accounts.aclose()


async def ask(accounts: Accounts, key: str) -> None:
    principal = await accounts.authenticate(f"Bearer {key}")
    admission = await accounts.admit(principal, model="m", kind="chat", estimated_tokens=5, request_id="req_1")
    await admission.settle(Outcome(request_id="req_1", started_at=time.time(), duration_s=0.1, usage=Usage(2, 2)))


async def test_one_key_one_limit_one_ledger(pair: list[Accounts], tmp_path: Path) -> None:
    """A key made once is known to both, its limit holds over both, and both write into one ledger."""
    first, second = pair
    store = await KeyStore.open(first.engine, None, tmp_path)
    key, record = await store.create(Principal(name="one"))
    await until(lambda: all(accounts._watch.epoch() == 1 for accounts in pair))
    await ask(first, key)
    await ask(second, key)
    await ask(first, key)
    with pytest.raises(ApiError, match=r"requests per day \(RPD\): Limit 3, Used 3, Requested 1"):
        await ask(second, key)
    await first.flush()
    (total,) = await second.report(UsageQuery(by=("key",)))
    assert (total.key_id, total.num_requests, total.num_failed) == (record.principal.key_id, 4, 1)


async def test_a_server_starts_without_its_redis(tmp_path: Path) -> None:
    """Redis may come later: only requests that have to be counted are refused until then, and they leave their row."""
    settings = AccountSettings(redis_url=f"unix://{tmp_path}/nobody.sock", rpm=1)
    accounts = await Accounts.open(settings, tmp_path)
    with pytest.raises(ApiError, match="cannot reach its rate limits"):
        await ask(accounts, "any")
    (total,) = await accounts.report(UsageQuery())
    assert (total.num_requests, total.num_failed) == (1, 1)
    await accounts.aclose()


async def test_a_budget_holds_over_servers_that_share_redis(postgres_url: str, redis_url: str, tmp_path: Path) -> None:
    """A hundred requests at once over two servers are admitted as by one, also while the database lags behind."""
    settings = AccountSettings(
        database_url=postgres_url, redis_url=redis_url, prices={"m": ModelPrice(input=1_000.0)}, price_provider="none"
    )
    servers = [await Accounts.open(settings, tmp_path) for _ in range(2)]
    principal = Principal(key_id=f"key_{secrets.token_hex(8)}", name="one", budget=KeyBudget(usd=0.01))

    async def admit(accounts: Accounts) -> Admission | None:
        try:
            return await accounts.admit(
                principal, model="m", kind="embedding", estimated_tokens=2, request_id="req_1", expected=Usage(2)
            )
        except ApiError as error:
            if error.code not in {"insufficient_quota", "rate_limit_exceeded"}:
                raise
            return None

    async def burst() -> list[Admission]:
        found = await asyncio.gather(*[admit(servers[n % 2]) for n in range(100)])
        return [admission for admission in found if admission is not None]

    spent = 0
    for admitted, used in ((5, 1), (2, 2), (1, 1)):
        in_flight = await burst()
        assert len(in_flight) == admitted
        for admission in in_flight:
            outcome = Outcome(request_id="req_1", started_at=time.time(), duration_s=0.1, usage=Usage(used), model="m")
            await admission.settle(outcome)
            spent += used
        for accounts in servers:
            await accounts._limiter._settlements.join()  # type: ignore[attr-defined]
    assert spent == 10
    assert await burst() == []
    for accounts in servers:
        await accounts.aclose()
