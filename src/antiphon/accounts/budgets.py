"""Budgets: refuse before any work once a key has spent what it may, or would with its requests in flight.

What was spent is read from the database at most once a second per key and updated in between with what this process adds.
Each request in flight holds its estimated cost in the limiter, which servers share through Redis, and gives it back when it
is settled at its real cost. So a budget is exceeded by at most the error of the estimates and the cost of one request that is
alone in flight.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from time import time

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from antiphon.accounts.errors import insufficient_quota, store_unreachable
from antiphon.accounts.ledger import Ledger
from antiphon.accounts.limiter.base import TOLERANCE_USD
from antiphon.accounts.principal import BudgetPeriod, KeyBudget, Principal
from antiphon.accounts.schema import spend

_READ_EVERY_S = 1.0
_MS_PER_DAY = 86_400_000


class _Spent:
    __slots__ = ("read_at", "since_ms", "usd")

    def __init__(self, usd: float, since_ms: int, read_at: float) -> None:
        self.usd = usd
        self.since_ms = since_ms
        self.read_at = read_at


class Budgets:
    """Knows what each key with a budget has spent in its period."""

    def __init__(self, engine: AsyncEngine, ledger: Ledger, clock: Callable[[], float] = time) -> None:
        self._engine = engine
        self._ledger = ledger
        self._clock = clock
        self._spent: dict[str, _Spent] = {}

    async def left_usd(self, principal: Principal) -> float | None:
        """Return the dollars that a key has left, more than 0; None for a key without a budget.

        Raises ``ApiError``: 429 ``insufficient_quota`` if the budget is spent, 503 while the database cannot be read.
        """
        spent_usd = await self.spent_usd(principal)
        if principal.budget is None or spent_usd is None:
            return None
        if spent_usd >= principal.budget.usd - TOLERANCE_USD:
            raise insufficient_quota()
        return principal.budget.usd - spent_usd

    async def spent_usd(self, principal: Principal) -> float | None:
        """Return the dollars that a key has spent in its period; None for a key without a budget. Raises ``ApiError`` 503."""
        if principal.budget is None or principal.key_id is None:
            return None
        return await self._current(principal.key_id, principal.budget)

    async def check(self, principal: Principal) -> None:
        """Raise ``ApiError`` 429 ``insufficient_quota`` if the budget is spent; 503 while the database cannot be read."""
        await self.left_usd(principal)

    def add(self, key_id: str, usd: float) -> None:
        """Count what a request cost, at once."""
        spent = self._spent.get(key_id)
        if spent is not None:
            spent.usd += usd

    async def _current(self, key_id: str, budget: KeyBudget) -> float:
        now = self._clock()
        since_ms = period_start_ms(budget.period, now)
        spent = self._spent.get(key_id)
        if spent is None or spent.since_ms != since_ms or not 0 <= now - spent.read_at < _READ_EVERY_S:
            try:
                usd = await self._read(key_id, since_ms)
            except (SQLAlchemyError, OSError) as error:
                raise store_unreachable("usage database") from error
            spent = self._spent[key_id] = _Spent(usd, since_ms, now)
        return spent.usd

    async def _read(self, key_id: str, since_ms: int) -> float:
        total = select(func.coalesce(func.sum(spend.c.usd), 0.0)).where(
            spend.c.key_id == key_id, spend.c.day >= since_ms // _MS_PER_DAY
        )
        async with self._ledger.writing:
            async with self._engine.connect() as connection:
                committed: float = (await connection.execute(total)).scalar_one()
            return committed + self._ledger.waiting_usd(key_id, since_ms)


def period_start_ms(period: BudgetPeriod, now_s: float) -> int:
    """Return when the period that ``now_s`` is in began, in Unix milliseconds; 0 for ``total``."""
    if period == "total":
        return 0
    now = datetime.fromtimestamp(now_s, UTC)
    start = now.replace(hour=0, minute=0, second=0, microsecond=0, day=1 if period == "month" else now.day)
    return int(start.timestamp() * 1000)
