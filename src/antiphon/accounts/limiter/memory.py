"""Limits of one process, in its memory."""

from collections.abc import Callable
from time import monotonic

from antiphon.accounts.bucket import Bucket
from antiphon.accounts.limiter.base import (
    CONCURRENCY,
    TOLERANCE_USD,
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

# Every so many reservations the empty buckets are thrown out, so that memory follows the keys in use.
_SWEEP_EVERY = 4096


class _Cell:
    """One bucket and how many unsettled reservations point at it."""

    __slots__ = ("bucket", "limit", "num_open", "scope")

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.bucket = Bucket()
        self.limit = 1
        self.num_open = 0

    def drain(self, now: float, limit: int) -> None:
        # The time until now passed under the limit that was in force, not under a new one.
        self.bucket = self.bucket.drained(now, self.limit, self.scope.period_s)
        self.limit = limit


class MemoryLimiter:
    """Implements ``Limiter`` for one event loop; ``clock`` gives seconds and never goes back."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._cells: dict[tuple[str, str, Scope], _Cell] = {}
        self._in_flight: dict[str, int] = {}
        self._holds: dict[str, list[float]] = {}
        self._num_admitted = 0
        self._num_refused = 0

    async def reserve(
        self, key: str, model: str, limits: Limits, n_tokens: int, *, yields: bool = False
    ) -> LimitDecision:
        now = self._clock()
        wanted = charges(limits, n_tokens, yields=yields)
        cells: list[_Cell] = []
        for one in wanted:
            cell = self._cells.get((key, model, one.scope))
            if cell is None:
                cell = self._cells[key, model, one.scope] = _Cell(one.scope)
            cell.drain(now, one.limit)
            cells.append(cell)
        if not yields and limits.concurrency is not None and self._in_flight.get(key, 0) >= limits.concurrency:
            self._num_refused += 1
            return LimitDecision(_readings(cells), refused_by=CONCURRENCY)
        for number, (cell, one) in enumerate(zip(cells, wanted, strict=True)):
            if not cell.bucket.has_room(one.units, one.ceiling):
                self._num_refused += 1
                if one.scope is Scope.TOKENS and not yields:
                    for before in cells[:number]:
                        before.bucket = before.bucket.poured(1)
                return refusal(_readings(cells), wanted, number)
        return self._admit(f"{key} in the background" if yields else key, cells, wanted)

    def _admit(self, in_flight: str, cells: list[_Cell], wanted: list[Charge]) -> LimitDecision:
        """Charge an admitted request; ``in_flight`` is the name under which it is counted until it ends."""
        self._num_admitted += 1
        self._in_flight[in_flight] = self._in_flight.get(in_flight, 0) + 1
        for cell, one in zip(cells, wanted, strict=True):
            cell.bucket = cell.bucket.poured(one.units)
        tokens, reserved = None, 0
        if cells and cells[-1].scope is Scope.TOKENS:
            tokens, reserved = cells[-1], wanted[-1].units
            tokens.num_open += 1
        if self._num_admitted % _SWEEP_EVERY == 0:
            self._sweep()
        return LimitDecision(_readings(cells), _MemoryReservation(self, in_flight, tokens, reserved))

    def settle(self, key: str, tokens: _Cell | None, *, reserved: int, mark: float, actual: int) -> None:
        """Give back what ``_MemoryReservation`` holds."""
        in_flight = self._in_flight[key] - 1
        if in_flight:
            self._in_flight[key] = in_flight
        else:
            del self._in_flight[key]
        if tokens is not None:
            tokens.drain(self._clock(), tokens.limit)
            tokens.bucket = tokens.bucket.settled(reserved=reserved, actual=actual, mark=mark)
            tokens.num_open -= 1

    async def hold(self, key: str, usd: float, left_usd: float) -> BudgetHold | None:
        held = self._holds.get(key)
        if held and usd > 0 and sum(held) + usd > left_usd + TOLERANCE_USD:
            return None
        return _MemoryHold(self._holds, key, usd)

    def _sweep(self) -> None:
        now = self._clock()
        for name, cell in list(self._cells.items()):
            cell.drain(now, cell.limit)
            if not cell.bucket.used and not cell.num_open:
                del self._cells[name]

    def statistics(self) -> LimiterStatistics:
        return LimiterStatistics(
            admitted_total=self._num_admitted,
            refused_total=self._num_refused,
            in_flight=sum(self._in_flight.values()),
            buckets=len(self._cells),
        )

    async def aclose(self) -> None:
        self._cells.clear()


class _MemoryReservation(Reservation):
    __slots__ = ("_key", "_limiter", "_mark", "_reserved", "_tokens")

    def __init__(self, limiter: MemoryLimiter, key: str, tokens: _Cell | None, reserved: int) -> None:
        self._limiter = limiter
        self._key = key
        self._tokens = tokens
        self._reserved = reserved
        self._mark = tokens.bucket.mark if tokens is not None else 0.0

    def settle(self, n_tokens: int) -> None:
        self._limiter.settle(self._key, self._tokens, reserved=self._reserved, mark=self._mark, actual=n_tokens)


class _MemoryHold(BudgetHold):
    __slots__ = ("_holds", "_key", "_usd")

    def __init__(self, holds: dict[str, list[float]], key: str, usd: float) -> None:
        self._holds = holds
        self._key = key
        self._usd = usd
        holds.setdefault(key, []).append(usd)

    def release(self, usd: float) -> None:  # noqa: ARG002 - the caller counts it
        held = self._holds[self._key]
        held.remove(self._usd)
        if not held:
            del self._holds[self._key]


def _readings(cells: list[_Cell]) -> tuple[Reading, ...]:
    return tuple(Reading(cell.scope, cell.limit, cell.bucket.used) for cell in cells)
