"""Limits on what may be spent, checked before each call.

A call first reserves the most that it can cost (its prompt, and as many tokens as it may generate); if that does not
fit, the call is not made. When it is done, the reservation is settled with what it did cost. Budgets nest: one for a
run above one for each chat.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation

from antiphon.toolkit.errors import BudgetExceededError, UnknownPriceError
from antiphon.toolkit.usage import Usage

CostOf = Callable[[Usage], Decimal | None]


@dataclass(frozen=True, slots=True)
class BudgetStatistics:
    """What a budget has paid and what is set aside for calls under way; dollars and tokens.

    ``num_unpriced`` calls had no known price and are not in ``spent_usd``; ``num_unreported`` calls ended without the
    server telling their usage and were charged what had been reserved.
    """

    spent_usd: Decimal = Decimal(0)
    spent_tokens: int = 0
    num_calls: int = 0
    reserved_usd: Decimal = Decimal(0)
    reserved_tokens: int = 0
    num_unpriced: int = 0
    num_unreported: int = 0


class Budget:
    """A limit on dollars, tokens or calls, in all and per call; whatever is None is not limited.

    May be shared by chats, threads and tasks. ``parent`` is charged as well, and its limits hold too. A limit in
    dollars refuses models whose price is unknown (UnknownPriceError): give ``prices=PriceTable({...})`` for them.
    """

    def __init__(
        self,
        *,
        usd: Decimal | float | str | None = None,
        tokens: int | None = None,
        calls: int | None = None,
        usd_per_call: Decimal | float | str | None = None,
        tokens_per_call: int | None = None,
        parent: Budget | None = None,
    ) -> None:
        self.usd = _limit("usd", usd)
        self.usd_per_call = _limit("usd_per_call", usd_per_call)
        self.tokens = _count("tokens", tokens)
        self.tokens_per_call = _count("tokens_per_call", tokens_per_call)
        self.calls = _count("calls", calls)
        self.parent = parent
        self._lock = threading.Lock()
        self._state = BudgetStatistics()

    def statistics(self) -> BudgetStatistics:
        return self._state

    @property
    def limits_usd(self) -> bool:
        own = self.usd is not None or self.usd_per_call is not None
        return own or (self.parent is not None and self.parent.limits_usd)

    def completion_room(self, prompt_tokens: int, cost: CostOf) -> int | None:
        """Return how many tokens may be generated after ``prompt_tokens``; None if nothing limits them, < 0 if none fit."""
        rooms = [limit - prompt_tokens for limit in (self.tokens_per_call, self._left_tokens()) if limit is not None]
        dollars = [limit for limit in (self.usd_per_call, self._left_usd()) if limit is not None]
        if dollars:
            rooms.extend(_affordable(min(dollars), prompt_tokens, cost))
        if self.parent is not None and (above := self.parent.completion_room(prompt_tokens, cost)) is not None:
            rooms.append(above)
        return min(rooms, default=None)

    def reserve(self, tokens: int, usd: Decimal | None, *, was_sent: bool = False) -> BudgetReservation:
        """Set aside what a call may cost at most. One that ``was_sent`` before is charged, whatever the limits say.

        Raises BudgetExceededError, naming the limit, if it does not fit, and UnknownPriceError for ``usd`` None under a
        limit in dollars.
        """
        above = None if self.parent is None else self.parent.reserve(tokens, usd, was_sent=was_sent)
        try:
            with self._lock:
                if not was_sent:
                    self._check(tokens, usd)
                state = self._state
                self._state = replace(
                    state,
                    num_calls=state.num_calls + 1,
                    reserved_tokens=state.reserved_tokens + tokens,
                    reserved_usd=state.reserved_usd + (usd or 0),
                )
        except BaseException:
            if above is not None:
                above.release(was_called=False)
            raise
        return BudgetReservation(self, tokens, usd, above)

    def settle(self, reservation: BudgetReservation, usage: Usage | None, usd: Decimal | None) -> None:
        """Replace what was reserved by what was spent; ``usage`` None (not told) charges the reservation."""
        spent_tokens = reservation.tokens if usage is None else usage.total_tokens
        spent_usd = reservation.usd if usage is None else usd
        with self._lock:
            state = self._state
            self._state = replace(
                state,
                reserved_tokens=state.reserved_tokens - reservation.tokens,
                reserved_usd=state.reserved_usd - (reservation.usd or 0),
                spent_tokens=state.spent_tokens + spent_tokens,
                spent_usd=state.spent_usd + (spent_usd or 0),
                num_unpriced=state.num_unpriced + (spent_usd is None),
                num_unreported=state.num_unreported + (usage is None),
            )

    def release(self, reservation: BudgetReservation, *, was_called: bool = True) -> None:
        """Give back what was reserved for a call that was not served; it counts as a call unless it was not made."""
        with self._lock:
            self._state = replace(
                self._state,
                num_calls=self._state.num_calls - (not was_called),
                reserved_tokens=self._state.reserved_tokens - reservation.tokens,
                reserved_usd=self._state.reserved_usd - (reservation.usd or 0),
            )

    def _left_tokens(self) -> int | None:
        state = self._state
        return None if self.tokens is None else self.tokens - state.spent_tokens - state.reserved_tokens

    def _left_usd(self) -> Decimal | None:
        state = self._state
        return None if self.usd is None else self.usd - state.spent_usd - state.reserved_usd

    def _check(self, tokens: int, usd: Decimal | None) -> None:
        if self.calls is not None and self._state.num_calls >= self.calls:
            raise _exceeded(f"{self.calls} calls", "all of them were made")
        left_tokens, left_usd = self._left_tokens(), self._left_usd()
        if self.tokens_per_call is not None and tokens > self.tokens_per_call:
            raise _exceeded(f"{self.tokens_per_call} tokens per call", f"this one may need {tokens}")
        if left_tokens is not None and tokens > left_tokens:
            raise _exceeded(f"{self.tokens} tokens", f"{left_tokens} are left and this call may need {tokens}")
        if self.usd is None and self.usd_per_call is None:
            return
        if usd is None:
            raise UnknownPriceError(
                "The budget limits dollars, and the price of this model at this endpoint is unknown",
                hint="pass prices=PriceTable({model: Price(prompt=..., completion=...)}), or limit tokens instead",
            )
        if self.usd_per_call is not None and usd > self.usd_per_call:
            raise _exceeded(f"${self.usd_per_call} per call", f"this one may cost ${usd}")
        if left_usd is not None and usd > left_usd:
            raise _exceeded(f"${self.usd}", f"${left_usd} is left and this call may cost ${usd}")


@dataclass(frozen=True, slots=True)
class BudgetReservation:
    """What is set aside for one call; end it with exactly one of ``settle`` and ``release``."""

    budget: Budget
    tokens: int
    usd: Decimal | None
    above: BudgetReservation | None

    def settle(self, usage: Usage | None, usd: Decimal | None) -> None:
        self.budget.settle(self, usage, usd)
        if self.above is not None:
            self.above.settle(usage, usd)

    def release(self, *, was_called: bool = True) -> None:
        self.budget.release(self, was_called=was_called)
        if self.above is not None:
            self.above.release(was_called=was_called)


def _affordable(dollars: Decimal, prompt_tokens: int, cost: CostOf) -> list[int]:
    prompt_cost, with_one_million = cost(Usage(prompt_tokens)), cost(Usage(prompt_tokens, 1_000_000))
    if prompt_cost is None or with_one_million is None:
        return []
    if prompt_cost > dollars:
        return [-1]
    per_million = with_one_million - prompt_cost
    return [] if per_million == 0 else [int((dollars - prompt_cost) / per_million * 1_000_000)]


def _exceeded(limit: str, why: str) -> BudgetExceededError:
    return BudgetExceededError(
        f"Not sent: the budget is {limit}; {why}",
        hint="raise the budget, lower max_completion_tokens, or send less (trim the history, shorten the prompt)",
    )


def _limit(name: str, value: Decimal | float | str | None) -> Decimal | None:
    try:
        limit = None if value is None else Decimal(str(value))
    except InvalidOperation:
        limit = Decimal("NaN")
    if limit is not None and (limit.is_nan() or limit < 0):
        raise ValueError(f"{name} must be >= 0 dollars, got {value!r}")
    return limit


def _count(name: str, value: int | None) -> int | None:
    if value is not None and value < 0:
        raise ValueError(f"{name} must be >= 0, got {value!r}")
    return value
