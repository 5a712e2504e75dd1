"""PostgreSQL and Redis restarted under load, with several servers: refused meanwhile, nothing lost, well again afterwards."""

import asyncio
import gc
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import select
from tests.accounts.services import Restartable, restartable_postgres, restartable_redis
from tests.waiting import until

from antiphon.accounts import Accounts, AccountSettings, KeyBudget, ModelPrice, Outcome, Principal
from antiphon.accounts.keys import KeyStore
from antiphon.accounts.schema import spend, usage
from antiphon.protocol.errors import ApiError
from antiphon.protocol.events import Usage

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.slow,
    # The driver leaves connections that PostgreSQL broke off to the collector.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]

SERVERS = 3
CLIENTS = 4


@pytest.fixture
def postgres() -> Iterator[tuple[Restartable, str]]:
    with restartable_postgres() as (server, socket):
        yield server, f"postgresql://antiphon@/postgres?host={socket}"


@pytest.fixture
def redis() -> Iterator[tuple[Restartable, str]]:
    with restartable_redis() as (server, url):
        yield server, url


class Load:
    """Clients that ask all servers without a pause, each request with an id of its own."""

    def __init__(self, servers: list[Accounts], key: str) -> None:
        self._servers = servers
        self._key = key
        self._numbers = itertools.count()
        self._is_over = self._has_failed = False
        self.answered: list[str] = []
        self.statuses: Counter[int] = Counter()

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for accounts in self._servers:
                    for _ in range(CLIENTS):
                        group.create_task(self._client(accounts))
        except ExceptionGroup:
            self._has_failed = True
            raise

    def end(self) -> None:
        self._is_over = True

    async def after(self, n: int) -> None:
        """Wait until ``n`` more requests were answered."""
        wanted = len(self.answered) + n
        await self._until(lambda: len(self.answered) >= wanted)

    async def refused(self, n: int) -> None:
        """Wait until ``n`` more requests were refused, with nothing but 503."""
        wanted = self.statuses[503] + n
        await self._until(lambda: self.statuses[503] >= wanted)

    async def _until(self, condition: Callable[[], bool]) -> None:
        await until(lambda: condition() or self._has_failed)
        assert not self._has_failed

    async def _client(self, accounts: Accounts) -> None:
        while not self._is_over:
            await asyncio.sleep(0.005)
            number = f"req_{next(self._numbers)}"
            try:
                principal = await accounts.authenticate(f"Bearer {self._key}")
                admission = await accounts.admit(
                    principal, model="m", kind="chat", estimated_tokens=3, request_id=number
                )
            except ApiError as error:
                self.statuses[error.status] += 1
                continue
            await admission.settle(
                Outcome(request_id=number, started_at=time.time(), duration_s=0.0, usage=Usage(1, 2), model="m")
            )
            self.answered.append(number)


@pytest.fixture
async def servers(
    postgres: tuple[Restartable, str], redis: tuple[Restartable, str], tmp_path: Path
) -> AsyncIterator[list[Accounts]]:
    settings = AccountSettings(
        database_url=postgres[1],
        redis_url=redis[1],
        rpm=10_000_000,
        tpm=100_000_000,
        prices={"m": ModelPrice(input=1.0, output=1.0)},
    )
    opened = [await Accounts.open(settings, tmp_path) for _ in range(SERVERS)]
    yield opened
    for accounts in opened:
        await accounts.aclose()
    gc.collect()  # here, and not within another test


async def key_of(servers: list[Accounts], tmp_path: Path) -> str:
    """Return a key that every server knows. It has a budget, so that admission needs the database as well."""
    store = await KeyStore.open(servers[0].engine, None, tmp_path)
    key, _ = await store.create(Principal(name="one", budget=KeyBudget(usd=1_000_000.0)))
    await until(lambda: all(accounts._watch.epoch() == 1 for accounts in servers))
    return key


async def written(accounts: Accounts) -> list[str]:
    async with accounts.engine.connect() as connection:
        query = select(usage.c.request_id).where(usage.c.status == 200)
        return list((await connection.execute(query)).scalars())


@pytest.mark.parametrize("service", ["postgres", "redis"])
async def test_a_service_is_restarted_under_load(
    servers: list[Accounts],
    postgres: tuple[Restartable, str],
    redis: tuple[Restartable, str],
    tmp_path: Path,
    service: str,
) -> None:
    """Meanwhile requests are refused with 503 and nothing else; then all is as before, and each answer has one row."""
    restarted = {"postgres": postgres[0], "redis": redis[0]}[service]
    load = Load(servers, await key_of(servers, tmp_path))
    running = asyncio.create_task(load.run())
    for _ in range(2):
        await load.after(50)
        await asyncio.to_thread(restarted.end)
        await load.refused(20)
        await asyncio.to_thread(restarted.start)
        await load.after(50)
    load.end()
    await running
    assert set(load.statuses) == {503}
    for accounts in servers:
        await accounts.flush()
    rows = await written(servers[0])
    assert len(rows) == len(set(rows))
    assert set(load.answered) == set(rows)
    async with servers[0].engine.connect() as connection:
        usd = (await connection.execute(select(spend.c.usd))).scalars().all()
    assert sum(usd) == pytest.approx(len(rows) * 3e-6)
    statistics = [accounts.statistics() for accounts in servers]
    assert [(s.ledger.waiting, s.ledger.refused_total, s.limiter.in_flight) for s in statistics] == [
        (0, 0, 0)
    ] * SERVERS
