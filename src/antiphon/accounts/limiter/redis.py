"""Limits that several servers share through Redis; each question is one atomic script on Redis' own clock.

Concurrency is counted in leases: a server renews those of its requests in flight, so that a killed server's slots come
free by themselves within ``LEASE_S``. While Redis does not answer, ``when_away`` decides, and it is asked again at
most once a second, so that a dead Redis does not slow every request down.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Awaitable, Callable
from functools import partial
from importlib.resources import files
from typing import Any, Literal, cast

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from antiphon.accounts.errors import store_unreachable
from antiphon.accounts.limiter.base import (
    CONCURRENCY,
    BudgetHold,
    Charge,
    LimitDecision,
    LimiterStatistics,
    Reservation,
    charges,
    refusal,
)
from antiphon.accounts.reading import Reading, Scope
from antiphon.accounts.settings import Limits

LEASE_S = 30.0
ANSWER_S = 2.0
"""Long enough for a busy machine: while Redis counts as unreachable, every limited request is refused."""
SETTLED_S = 3.0
"""How long the cost of a settled request is kept: other servers read it from the database within two seconds."""
_ASK_AGAIN_S = 1.0
_AWAY = (RedisError, OSError, TimeoutError)

_log = structlog.get_logger("antiphon.accounts")


class RedisLimiter:
    """Implements ``Limiter``. Settling is queued and carried out by a task, so that it never waits."""

    def __init__(self, url: str, when_away: Literal["refuse", "admit"], *, prefix: str = "antiphon") -> None:
        # Redis' own annotations leave most arguments and answers open.
        self._redis: Any = cast("Any", Redis).from_url(
            url, socket_timeout=ANSWER_S, socket_connect_timeout=ANSWER_S, retry=Retry(NoBackoff(), 1)
        )
        scripts = files("antiphon.accounts.limiter")
        self._reserve = self._redis.register_script(scripts.joinpath("reserve.lua").read_text())
        self._settle = self._redis.register_script(scripts.joinpath("settle.lua").read_text())
        self._hold = self._redis.register_script(scripts.joinpath("hold.lua").read_text())
        self._release = self._redis.register_script(scripts.joinpath("release.lua").read_text())
        self._server = secrets.token_hex(8)
        self._num_released = 0
        self._when_away = when_away
        self._prefix = prefix
        self._away_until = 0.0
        self._leases: dict[str, tuple[str, ...]] = {}
        """Leases of requests in flight: the sorted set that has them, and what expires with it."""
        self._settlements: asyncio.Queue[Callable[[], Awaitable[None]]] = asyncio.Queue()
        self._tasks = [asyncio.create_task(self._settle_all()), asyncio.create_task(self._renew_leases())]
        self._num_admitted = 0
        self._num_refused = 0
        self._num_in_flight = 0
        self._num_uncounted = 0
        self._num_unsettled = 0

    async def reserve(
        self, key: str, model: str, limits: Limits, n_tokens: int, *, yields: bool = False
    ) -> LimitDecision:
        wanted = charges(limits, n_tokens, yields=yields)
        concurrency = None if yields else limits.concurrency
        if not wanted and concurrency is None:
            return self._admit(LimitDecision((), _RedisReservation(self)))
        if time.monotonic() < self._away_until:
            return self._away()
        asked = asyncio.ensure_future(self._ask(key, model, wanted, concurrency, yields=yields))
        try:
            return await asyncio.shield(asked)
        except asyncio.CancelledError:
            # Redis may have counted it already: the slot and tokens of a request that was cancelled are given back.
            asked.add_done_callback(_give_back)
            raise

    async def _ask(
        self, key: str, model: str, wanted: list[Charge], concurrency: int | None, *, yields: bool
    ) -> LimitDecision:
        names = [self._name(key, model, one.scope) for one in wanted]
        arguments: list[Any] = [len(wanted)]
        for one in wanted:
            arguments += [one.limit, one.scope.period_s, one.units, int(one.scope is not Scope.TOKENS), one.ceiling]
        lease = secrets.token_hex(8)
        slots = self._name(key, "in-flight") if concurrency is not None else None
        arguments += [concurrency or 0, lease, LEASE_S, int(not yields)]
        try:
            answer = await self._reserve(keys=[*names, slots] if slots else names, args=arguments)
        except _AWAY as error:
            return self._lost(error)
        refused, born, mark, *used = [part.decode() for part in answer]
        readings = tuple(Reading(one.scope, one.limit, float(u)) for one, u in zip(wanted, used, strict=True))
        if refused == "0":
            return self._admit(
                LimitDecision(readings, _RedisReservation(self, _Tokens.of(wanted, names, mark, born), slots, lease))
            )
        self._num_refused += 1
        if refused == "-1":
            return LimitDecision(readings, refused_by=CONCURRENCY)
        return refusal(readings, wanted, int(refused) - 1)

    def _admit(self, decision: LimitDecision) -> LimitDecision:
        self._num_admitted += 1
        self._num_in_flight += 1
        reservation = decision.reservation
        if isinstance(reservation, _RedisReservation) and reservation.slots is not None:
            self._leases[reservation.lease] = (reservation.slots,)
        return decision

    async def hold(self, key: str, usd: float, left_usd: float) -> BudgetHold | None:
        if time.monotonic() < self._away_until:
            return self._hold_uncounted()
        lease, names = secrets.token_hex(8), (self._name(key, "holds"), self._name(key, "held"))
        hold = _RedisHold(self, lease, names)
        arguments = [repr(usd), repr(left_usd), lease, LEASE_S, self._server, self._num_released]
        asked: asyncio.Future[int] = asyncio.ensure_future(self._hold(keys=names, args=arguments))

        def give_back(done: "asyncio.Future[int]") -> None:
            if not done.cancelled() and done.exception() is None and done.result():
                hold.release(0.0)

        try:
            is_held = await asyncio.shield(asked)
        except asyncio.CancelledError:
            # Redis may have stored the hold already.
            asked.add_done_callback(give_back)
            raise
        except _AWAY as error:
            self._note_away(error)
            return self._hold_uncounted()
        if not is_held:
            return None
        self._leases[lease] = names
        return hold

    def _hold_uncounted(self) -> BudgetHold:
        if self._when_away == "refuse":
            raise store_unreachable("rate limits")
        return _RedisHold(self, "", ())

    def release(self, hold: "_RedisHold", usd: float) -> None:
        """Queue the release of ``hold``."""
        if not hold.names:
            return
        self._leases.pop(hold.lease, None)
        self._num_released += 1
        number = self._num_released

        async def release() -> None:
            await self._release(keys=hold.names, args=[hold.lease, repr(usd), self._server, number, SETTLED_S])

        self._settlements.put_nowait(release)

    def _lost(self, error: BaseException) -> LimitDecision:
        self._note_away(error)
        return self._away()

    def _note_away(self, error: BaseException) -> None:
        self._away_until = time.monotonic() + _ASK_AGAIN_S
        _log.warning("redis_away", error=str(error), answer=self._when_away)

    def _away(self) -> LimitDecision:
        if self._when_away == "refuse":
            raise store_unreachable("rate limits")
        self._num_uncounted += 1
        return self._admit(LimitDecision((), _RedisReservation(self)))

    def _name(self, key: str, *parts: str | Scope) -> str:
        # The braces keep all names of one key on one node of a cluster, as a script needs them.
        named = (part.label if isinstance(part, Scope) else part for part in parts)
        return ":".join((self._prefix, "{" + key + "}", *named))

    def settle(self, reservation: "_RedisReservation") -> None:
        """Queue the settlement of ``reservation``."""
        self._num_in_flight -= 1
        self._leases.pop(reservation.lease, None)
        self._settlements.put_nowait(partial(self._settle_one, reservation))

    async def _settle_all(self) -> None:
        while True:
            settle = await self._settlements.get()
            try:
                await settle()
            except _AWAY as error:
                self._num_unsettled += 1
                _log.warning("redis_away", error=str(error), answer="not settled")
            finally:
                self._settlements.task_done()

    async def _settle_one(self, reservation: "_RedisReservation") -> None:
        tokens = reservation.tokens
        if tokens is not None:
            arguments = [tokens.reserved, reservation.actual, tokens.mark, tokens.born, Scope.TOKENS.period_s]
            await self._settle(keys=[tokens.name], args=arguments)
        if reservation.slots is not None:
            await self._redis.zrem(reservation.slots, reservation.lease)

    async def _renew_leases(self) -> None:
        while True:
            await asyncio.sleep(LEASE_S / 3)
            with contextlib.suppress(*_AWAY):
                seconds, _ = await self._redis.time()
                for lease, names in list(self._leases.items()):
                    await self._redis.zadd(names[0], {lease: seconds + LEASE_S}, xx=True)
                    for name in names:
                        await self._redis.expire(name, int(LEASE_S * 2))

    def statistics(self) -> LimiterStatistics:
        return LimiterStatistics(
            admitted_total=self._num_admitted,
            refused_total=self._num_refused,
            in_flight=self._num_in_flight,
            uncounted_total=self._num_uncounted,
            unsettled_total=self._num_unsettled,
        )

    async def aclose(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._settlements.join(), ANSWER_S * 4)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._redis.aclose()


def _give_back(asked: "asyncio.Future[LimitDecision]") -> None:
    if not asked.cancelled() and asked.exception() is None and (reservation := asked.result().reservation) is not None:
        reservation.settle(0)


class _Tokens:
    """The reserved tokens: in which bucket, and where in its outflow."""

    __slots__ = ("born", "mark", "name", "reserved")

    def __init__(self, name: str, reserved: int, mark: str, born: str) -> None:
        self.name = name
        self.reserved = reserved
        self.mark = mark
        self.born = born

    @classmethod
    def of(cls, wanted: list[Charge], names: list[str], mark: str, born: str) -> "_Tokens | None":
        if not wanted or wanted[-1].scope is not Scope.TOKENS:
            return None
        return cls(names[-1], wanted[-1].units, mark, born)


class _RedisHold(BudgetHold):
    __slots__ = ("_limiter", "lease", "names")

    def __init__(self, limiter: RedisLimiter, lease: str, names: tuple[str, ...]) -> None:
        self._limiter = limiter
        self.lease = lease
        self.names = names

    def release(self, usd: float) -> None:
        self._limiter.release(self, usd)


class _RedisReservation(Reservation):
    __slots__ = ("_limiter", "actual", "lease", "slots", "tokens")

    def __init__(
        self, limiter: RedisLimiter, tokens: _Tokens | None = None, slots: str | None = None, lease: str = ""
    ) -> None:
        self._limiter = limiter
        self.tokens = tokens
        self.slots = slots
        self.lease = lease
        self.actual = 0

    def settle(self, n_tokens: int) -> None:
        self.actual = n_tokens
        self._limiter.settle(self)
