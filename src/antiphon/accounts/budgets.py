"""Budgets: refuse before any work once a key has spent what it may, or would with its requests in flight.

What was spent is read from the database at most once a second per key and updated in between with what this process adds.
Each request in flight holds its estimated cost, and gives it back when it is settled at its real cost. So a budget is
exceeded by at most the error of the estimates, the cost of one request that is alone in flight, and what other processes
admitted in the last second.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from time import time

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from antiphon.accounts.errors import budget_reserved, insufficient_quota, store_unreachable
from antiphon.accounts.ledger import Ledger
from antiphon.accounts.principal import BudgetPeriod, KeyBudget, Principal
from antiphon.accounts.schema import spend

_READ_EVERY_S = 1.0
_MS_PER_DAY = 86_400_000
_TOLERANCE_USD = 1e-9
"""A sum of floats may end a hair below what it should; a billionth of a dollar is not a budget."""


class _Spent:
    __slots__ = ("read_at", "since_ms", "usd")

    def __init__(self, usd: float, since_ms: int, read_at: float) -> None:
        self.usd = usd
        self.since_ms = since_ms
        self.read_at = read_at


class BudgetHold:
    """The estimated dollars of one request in flight. ``release`` gives them back, once."""

    __slots__ = ("_held", "_key_id", "_usd")

    def __init__(self, held: dict[str, list[float]], key_id: str, usd: float) -> None:
        self._held = held
        self._key_id = key_id
        self._usd = usd
        held.setdefault(key_id, []).append(usd)

    def release(self) -> None:
        amounts = self._held[self._key_id]
        amounts.remove(self._usd)
        if not amounts:
            del self._held[self._key_id]


class Budgets:
    """Knows what each key with a budget has spent in its period, and what its requests in flight may cost."""

    def __init__(self, engine: AsyncEngine, ledger: Ledger, clock: Callable[[], float] = time) -> None:
        self._engine = engine
        self._ledger = ledger
        self._clock = clock
        self._spent: dict[str, _Spent] = {}
        self._held: dict[str, list[float]] = {}

    async def reserve(self, principal: Principal, usd: float) -> BudgetHold | None:
        """Hold ``usd``, what a request is estimated to cost; None for a key without a budget.

        A request that is alone in flight is admitted while anything is left, whatever it may cost: otherwise a cautious
        estimate would make the last cents of a budget unusable.

        Raises ``ApiError``: 429 ``insufficient_quota`` if the budget is spent, 429 ``rate_limit_exceeded`` if it would be
        exceeded together with the requests in flight, 503 while the database cannot be read.
        """
        budget = principal.budget
        if budget is None or principal.key_id is None:
            return None
        spent_usd = await self._unspent_checked(principal.key_id, budget)
        # From here to the hold nothing awaits, so that no other request comes between.
        in_flight = self._held.get(principal.key_id)
        if in_flight and usd > 0 and spent_usd + sum(in_flight) + usd > budget.usd + _TOLERANCE_USD:
            raise budget_reserved()
        return BudgetHold(self._held, principal.key_id, usd)

    async def check(self, principal: Principal) -> None:
        """Raise ``ApiError`` 429 ``insufficient_quota`` if the budget is spent; 503 while the database cannot be read."""
        if principal.budget is not None and principal.key_id is not None:
            await self._unspent_checked(principal.key_id, principal.budget)

    async def _unspent_checked(self, key_id: str, budget: KeyBudget) -> float:
        """Return the dollars spent, which are less than the budget."""
        spent_usd = await self._current(key_id, budget)
        if spent_usd >= budget.usd - _TOLERANCE_USD:
            raise insufficient_quota()
        return spent_usd

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
