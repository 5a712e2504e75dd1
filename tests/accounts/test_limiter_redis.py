"""What only the shared limiter does: several servers, one Redis, and Redis away."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from tests.waiting import until

from antiphon.accounts.limiter import MemoryLimiter
from antiphon.accounts.limiter.redis import LEASE_S, RedisLimiter
from antiphon.accounts.settings import Limits
from antiphon.protocol.errors import ApiError

pytestmark = pytest.mark.anyio

_prefixes = itertools.count(1)


@pytest.fixture
async def servers(redis_url: str) -> AsyncIterator[list[RedisLimiter]]:
    """Two servers on one Redis."""
    prefix = f"servers{next(_prefixes)}"
    pair = [RedisLimiter(redis_url, "refuse", prefix=prefix) for _ in range(2)]
    yield pair
    for server in pair:
        await server.aclose()


async def test_two_servers_admit_no_more_than_one_would(servers: list[RedisLimiter]) -> None:
    """A hundred requests at once over two servers: exactly the limit passes."""
    limits = Limits(rpd=30, tpm=10_000)
    asked = [server.reserve("key_1", "m", limits, 10) for _ in range(50) for server in servers]
    decisions = await asyncio.gather(*asked)
    assert sum(decision.reservation is not None for decision in decisions) == 30


class Asked(NamedTuple):
    """A request: at which server, for how many tokens, and how many it turns out to use; None: it is still running."""

    server: int
    n_tokens: int
    used: int | None


sequences = st.lists(
    st.builds(Asked, st.integers(0, 1), st.integers(1, 10), st.none() | st.integers(0, 12)), max_size=40
)


@settings(max_examples=40, deadline=None)
@given(sequences)
def test_two_servers_decide_like_one(redis_url: str, sequence: list[Asked]) -> None:
    """Any sequence of requests over two servers gets the answers that one limiter in memory gives to it."""
    asyncio.run(compare(redis_url, sequence))


async def compare(redis_url: str, sequence: list[Asked]) -> None:
    prefix = f"servers{next(_prefixes)}"
    pair = [RedisLimiter(redis_url, "refuse", prefix=prefix) for _ in range(2)]
    alone = MemoryLimiter(lambda: 0.0)
    limits = Limits(rpd=20, tpm=10)
    one_unit_leaks = time.monotonic() + 60 / 10
    for asked in sequence:
        shared = await pair[asked.server].reserve("key_1", "m", limits, asked.n_tokens)
        single = await alone.reserve("key_1", "m", limits, asked.n_tokens)
        if time.monotonic() > one_unit_leaks - 1:
            break  # a machine that slow cannot compare a clock that runs with one that stands still
        assert (shared.reservation is None) == (single.reservation is None)
        if asked.used is not None and shared.reservation is not None and single.reservation is not None:
            shared.reservation.settle(asked.used)
            single.reservation.settle(asked.used)
            await pair[asked.server]._settlements.join()
    for server in pair:
        await server.aclose()


async def test_concurrency_is_shared(servers: list[RedisLimiter]) -> None:
    """Slots taken on one server are missing on the other."""
    limits = Limits(concurrency=1)
    held = await servers[0].reserve("key_1", "m", limits, 1)
    assert (await servers[1].reserve("key_1", "m", limits, 1)).reservation is None
    assert held.reservation is not None
    held.reservation.settle(1)
    await servers[0]._settlements.join()
    assert (await servers[1].reserve("key_1", "m", limits, 1)).reservation is not None


async def test_a_killed_servers_slots_come_free(servers: list[RedisLimiter], redis_url: str) -> None:
    """A slot that nobody renews is free after the lease."""
    limits = Limits(concurrency=1)
    await servers[0].reserve("key_1", "m", limits, 1)
    client: Any = Redis.from_url(redis_url)
    slots = servers[0]._name("key_1", "in-flight")
    (lease,) = await client.zrange(slots, 0, -1)
    await client.zincrby(slots, -LEASE_S - 1, lease)
    await client.aclose()
    assert (await servers[1].reserve("key_1", "m", limits, 1)).reservation is not None


async def test_a_reservation_from_before_redis_was_emptied_is_not_refunded(
    servers: list[RedisLimiter], redis_url: str
) -> None:
    """A new bucket owes nothing to an old reservation."""
    limits = Limits(tpm=600)
    old = await servers[0].reserve("key_1", "m", limits, 600)
    client: Any = Redis.from_url(redis_url)
    await client.delete(servers[0]._name("key_1", "m", "tpm"))
    await client.aclose()
    await servers[0].reserve("key_1", "m", limits, 500)
    assert old.reservation is not None
    old.reservation.settle(0)
    await servers[0]._settlements.join()
    assert (await servers[0].reserve("key_1", "m", limits, 300)).reservation is None


async def test_redis_away_refuses_when_told_to(tmp_path: Path) -> None:
    """Without its Redis a server that must count refuses, with a 503 that may be tried again."""
    limiter = RedisLimiter(f"unix://{tmp_path}/nobody.sock", "refuse")
    for _ in range(2):
        with pytest.raises(ApiError) as caught:
            await limiter.reserve("key_1", "m", Limits(rpm=1), 1)
        assert (caught.value.status, caught.value.headers["Retry-After"]) == (503, "1")
    assert (await limiter.reserve("key_1", "m", Limits(), 1)).reservation is not None
    await limiter.aclose()


async def test_redis_away_admits_when_told_to(tmp_path: Path) -> None:
    """Without its Redis a server that may admits, shows no headers, and counts what went uncounted."""
    limiter = RedisLimiter(f"unix://{tmp_path}/nobody.sock", "admit")
    for _ in range(3):
        decision = await limiter.reserve("key_1", "m", Limits(rpm=1), 1)
        assert decision.reservation is not None
        assert decision.headers() == {}
        decision.reservation.settle(1)
    assert limiter.statistics().uncounted_total == 3
    await limiter.aclose()


async def test_what_nobody_waits_for_any_more_is_given_back(redis_url: str) -> None:
    """A client that leaves while Redis counts its request holds neither its slot nor its tokens."""
    server = RedisLimiter(redis_url, "refuse", prefix=f"servers{next(_prefixes)}")
    limits = Limits(concurrency=1, tpm=100)
    ask, counted = server._ask, asyncio.Event()

    async def slowly(*arguments: Any, **named: Any) -> Any:
        decision = await ask(*arguments, **named)
        counted.set()
        await asyncio.sleep(0)
        return decision

    server._ask = slowly  # type: ignore[method-assign]
    reserving = asyncio.ensure_future(server.reserve("key_1", "m", limits, 100))
    await counted.wait()
    reserving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reserving
    await until(lambda: server.statistics().in_flight == 0)
    await server._settlements.join()
    decision = await server.reserve("key_1", "m", limits, 100)
    assert decision.reservation is not None
    decision.reservation.settle(0)
    await server.aclose()
