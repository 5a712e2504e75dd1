"""What every limiter does: in memory and through a real Redis."""

import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from antiphon.accounts.limiter import BudgetHold, LimitDecision, Limiter, MemoryLimiter
from antiphon.accounts.limiter.redis import RedisLimiter
from antiphon.accounts.reading import Scope
from antiphon.accounts.settings import Limits

pytestmark = pytest.mark.anyio

_prefixes = itertools.count(1)


class Holds:
    """The holds of one key, released as the limiter's owner does."""

    def __init__(self, limiter: Limiter, key: str) -> None:
        self._limiter = limiter
        self._key = key

    async def take(self, usd: float, left_usd: float) -> BudgetHold | None:
        return await self._limiter.hold(self._key, usd, left_usd)

    async def release(self, hold: BudgetHold | None, usd: float) -> None:
        assert hold is not None
        hold.release(usd)
        if isinstance(self._limiter, RedisLimiter):
            await self._limiter._settlements.join()


class Bench:
    """A limiter and a way to let time pass for it."""

    def __init__(self, limiter: Limiter, advance: Callable[[float], Awaitable[None]]) -> None:
        self.limiter = limiter
        self.advance = advance
        self._begun = time.monotonic()

    def slack_s(self) -> float:
        """How much time may have passed for the limiter beside what ``advance`` let pass: Redis' clock runs on."""
        return 1e-3 + (time.monotonic() - self._begun if isinstance(self.limiter, RedisLimiter) else 0.0)

    async def ask(self, n_tokens: int = 1, *, key: str = "key_1", model: str = "m", **limits: int) -> LimitDecision:
        return await self.limiter.reserve(key, model, Limits(**limits), n_tokens)

    async def settle(self, decision: LimitDecision, n_tokens: int) -> None:
        assert decision.reservation is not None
        decision.reservation.settle(n_tokens)
        if isinstance(self.limiter, RedisLimiter):
            await self.limiter._settlements.join()


@pytest.fixture(params=["memory", "redis"])
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    if request.param == "memory":
        now = [1000.0]

        async def move(seconds: float) -> None:
            now[0] += seconds

        yield Bench(MemoryLimiter(lambda: now[0]), move)
        return
    url: str = request.getfixturevalue("redis_url")
    prefix = f"test{next(_prefixes)}"
    limiter = RedisLimiter(url, "refuse", prefix=prefix)
    client: Any = Redis.from_url(url)

    async def age(seconds: float) -> None:
        """Redis' clock cannot be moved, so all that it remembers moves into the past."""
        async for name in client.scan_iter(f"{prefix}:*"):
            if name.endswith(b"in-flight"):
                for lease in await client.zrange(name, 0, -1):
                    await client.zincrby(name, -seconds, lease)
            else:
                await client.hincrbyfloat(name, "at", -seconds)

    yield Bench(limiter, age)
    await limiter.aclose()
    await client.aclose()


async def test_requests_up_to_the_limit_then_a_wait_that_is_true(bench: Bench) -> None:
    """Three of three pass, the fourth waits a third of a minute and then passes."""
    for left in (2, 1, 0):
        decision = await bench.ask(rpm=3)
        assert decision.reservation is not None
        assert decision.readings[0].remaining == left
    refused = await bench.ask(rpm=3)
    assert refused.reservation is None
    assert refused.refused_by == refused.readings[0]
    assert refused.wait_s == pytest.approx(20, abs=bench.slack_s())
    await bench.advance(refused.wait_s - 10)
    assert (await bench.ask(rpm=3)).reservation is None
    await bench.advance(10)
    assert (await bench.ask(rpm=3)).reservation is not None


async def test_tokens_up_to_the_limit(bench: Bench) -> None:
    """A request passes as soon as its tokens fit, and not before."""
    assert (await bench.ask(700, tpm=1000)).reservation is not None
    refused = await bench.ask(400, tpm=1000)
    assert refused.refused_by is refused.readings[0]
    assert refused.wait_s == pytest.approx(6, abs=bench.slack_s())
    await bench.advance(6.01)
    assert (await bench.ask(400, tpm=1000)).reservation is not None


async def test_requests_per_day(bench: Bench) -> None:
    """200 a day leak one in 7m12s."""
    for _ in range(200):
        assert (await bench.ask(rpd=200)).reservation is not None
    refused = await bench.ask(rpd=200)
    assert refused.readings[0].scope is Scope.REQUESTS_PER_DAY
    assert refused.wait_s == pytest.approx(432, abs=bench.slack_s())
    await bench.advance(432)
    assert (await bench.ask(rpd=200)).reservation is not None


async def test_a_request_refused_for_tokens_counts_as_a_request(bench: Bench) -> None:
    """It failed, and failed requests count; its wait covers the requests, too."""
    await bench.ask(100, rpm=2, tpm=100)
    refused = await bench.ask(10, rpm=2, tpm=100)
    assert refused.refused_by is refused.readings[1]
    assert refused.readings[0].remaining == 0
    assert refused.wait_s == pytest.approx(30, abs=bench.slack_s())


async def test_a_request_refused_for_requests_is_not_charged(bench: Bench) -> None:
    """Asking too often does not push the next turn further away."""
    await bench.ask(rpm=1, tpm=1000)
    first = await bench.ask(50, rpm=1, tpm=1000)
    second = await bench.ask(50, rpm=1, tpm=1000)
    assert second.wait_s <= first.wait_s <= 60
    assert second.readings[1].used <= 1


async def test_the_unused_part_of_a_reservation_comes_back(bench: Bench) -> None:
    """Settling on less makes room at once."""
    decision = await bench.ask(1000, tpm=1000)
    await bench.settle(decision, 100)
    after = await bench.ask(900, tpm=1000)
    assert after.reservation is not None
    assert after.readings[0].remaining == pytest.approx(0, abs=1000 / 60 * bench.slack_s())


async def test_more_than_was_reserved_is_charged(bench: Bench) -> None:
    """Settling on more can fill the bucket past its limit; the next one waits for it."""
    decision = await bench.ask(100, tpm=600)
    await bench.settle(decision, 700)
    refused = await bench.ask(1, tpm=600)
    assert refused.reservation is None
    assert refused.readings[0].remaining == 0
    assert refused.wait_s == pytest.approx(10.1, abs=bench.slack_s())


async def test_a_late_refund_takes_nothing_from_others(bench: Bench) -> None:
    """Tokens that have leaked away are not given back a second time."""
    slow = await bench.ask(600, tpm=600)
    await bench.advance(60)
    assert (await bench.ask(500, tpm=600)).reservation is not None
    await bench.settle(slow, 0)
    assert (await bench.ask(200, tpm=600)).reservation is None


async def test_keys_and_models_are_counted_apart(bench: Bench) -> None:
    """Neither another key nor another model uses up the room."""
    assert (await bench.ask(rpm=1)).reservation is not None
    assert (await bench.ask(rpm=1, key="key_2")).reservation is not None
    assert (await bench.ask(rpm=1, model="n")).reservation is not None
    assert (await bench.ask(rpm=1)).reservation is None


async def test_concurrency_is_counted_per_key_over_all_models(bench: Bench) -> None:
    """A full key is refused without being charged, and admitted when one of its requests has ended."""
    first = await bench.ask(concurrency=2, rpd=100)
    await bench.ask(concurrency=2, rpd=100, model="n")
    refused = await bench.ask(concurrency=2, rpd=100)
    assert refused.refused_by == "concurrency"
    assert refused.readings[0].remaining == 99
    assert (await bench.ask(concurrency=2, key="key_2")).reservation is not None
    await bench.settle(first, 1)
    assert (await bench.ask(concurrency=2, rpm=100)).reservation is not None


async def test_a_new_limit_holds_from_now_on(bench: Bench) -> None:
    """What leaked before leaked at the old rate; from now on the new limit decides."""
    for _ in range(10):
        await bench.ask(rpm=10)
    await bench.advance(30)
    decision = await bench.ask(rpm=20)
    assert decision.readings[0].used == pytest.approx(6, abs=bench.slack_s())


async def test_without_limits_all_pass(bench: Bench) -> None:
    """No limit, no reading, no refusal."""
    for _ in range(100):
        decision = await bench.ask(10**9)
        assert decision.readings == ()
        await bench.settle(decision, 1)
    statistics = bench.limiter.statistics()
    assert (statistics.admitted_total, statistics.in_flight) == (100, 0)


async def test_dollars_are_held_up_to_what_is_left(bench: Bench) -> None:
    """Holds in flight and a new one fit into what is left, exactly; each key has its own."""
    holds = Holds(bench.limiter, "key_1")
    assert await holds.take(0.4, 1.0) is not None
    assert await holds.take(0.6, 1.0) is not None
    assert await holds.take(0.1, 1.0) is None
    assert await holds.take(0.0, 1.0) is not None
    assert await Holds(bench.limiter, "key_2").take(0.9, 1.0) is not None


async def test_a_request_that_is_alone_may_cost_more_than_is_left(bench: Bench) -> None:
    """A cautious estimate does not make the last cents unusable; a second request waits for the first."""
    holds = Holds(bench.limiter, "key_1")
    alone = await holds.take(5.0, 0.01)
    assert alone is not None
    assert await holds.take(0.005, 0.01) is None
    await holds.release(alone, 0.002)
    assert await holds.take(5.0, 0.008) is not None


async def test_a_released_hold_is_free_again(bench: Bench) -> None:
    """What the request cost is in the dollars that are left, and not held any more."""
    holds = Holds(bench.limiter, "key_1")
    left = 1.0
    for _ in range(5):
        first, second = await holds.take(left / 2, left), await holds.take(left / 2, left)
        await holds.release(first, 0.1)
        left -= 0.1
        await holds.release(second, 0.0)
    last = await holds.take(left, left)
    assert last is not None
    assert await holds.take(0.01, left) is None


async def test_work_that_yields_leaves_half_of_each_bucket(bench: Bench) -> None:
    """It waits as long as it is told, is charged nothing meanwhile, and requests find the other half free."""

    async def work(n_tokens: int, **limits: int) -> LimitDecision:
        return await bench.limiter.reserve("key_1", "m", Limits(**limits), n_tokens, yields=True)

    assert (await work(400, rpm=100, tpm=1000)).reservation is not None
    refusals = [await work(200, rpm=100, tpm=1000) for _ in range(3)]
    for refused in refusals:
        assert refused.reservation is None
        assert refused.wait_s == pytest.approx(6, abs=bench.slack_s())
    assert refusals[-1].readings[0].used == pytest.approx(1, abs=2 * bench.slack_s())
    assert (await bench.ask(500, rpm=100, tpm=1000)).reservation is not None
    await bench.advance(36.01)
    assert (await work(200, rpm=100, tpm=1000)).reservation is not None


async def test_work_that_yields_passes_an_empty_bucket_whatever_its_size(bench: Bench) -> None:
    """More than half of a limit would else never pass; one request a minute is not half of one."""
    reserve = bench.limiter.reserve
    for limits, n_tokens in ((Limits(tpm=1000), 900), (Limits(rpm=1), 1)):
        model = f"m{n_tokens}"
        assert (await reserve("key_1", model, limits, n_tokens, yields=True)).reservation is not None
        refused = await reserve("key_1", model, limits, n_tokens, yields=True)
        assert refused.reservation is None
        await bench.advance(refused.wait_s + 0.01)
        assert (await reserve("key_1", model, limits, n_tokens, yields=True)).reservation is not None


async def test_work_that_yields_is_no_request_in_flight(bench: Bench) -> None:
    """A key with one place keeps it for its requests, and its work goes on beside them."""
    work = await bench.limiter.reserve("key_1", "m", Limits(concurrency=1), 1, yields=True)
    request = await bench.ask(concurrency=1)
    assert request.reservation is not None
    assert (await bench.ask(concurrency=1)).reservation is None
    more = await bench.limiter.reserve("key_1", "m", Limits(concurrency=1), 1, yields=True)
    for done in (work, more, request):
        await bench.settle(done, 1)
    assert (await bench.ask(concurrency=1)).reservation is not None
    assert bench.limiter.statistics().in_flight == 1
