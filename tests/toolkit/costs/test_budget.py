"""Budgets."""

import contextlib
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.toolkit.costs.budget import Budget
from antiphon.toolkit.errors import BudgetExceededError, UnknownPriceError
from antiphon.toolkit.usage import Usage


def per_token(usage: Usage) -> Decimal:
    return Decimal(usage.prompt_tokens + 2 * usage.completion_tokens) / 1000


def test_a_call_that_does_not_fit_is_not_made_and_the_limit_is_named() -> None:
    """The message has the limit, what is left and what was wanted."""
    budget = Budget(tokens=100)
    budget.reserve(60, None)
    with pytest.raises(BudgetExceededError, match="100 tokens; 40 are left and this call may need 50"):
        budget.reserve(50, None)


def test_a_settled_call_gives_back_what_it_did_not_use() -> None:
    """What counts in the end is the real usage."""
    budget = Budget(tokens=100, usd="1.00")
    budget.reserve(90, Decimal("0.90")).settle(Usage(10, 5), Decimal("0.20"))
    stats = budget.statistics()
    assert (stats.spent_tokens, stats.reserved_tokens, stats.spent_usd) == (15, 0, Decimal("0.20"))
    budget.reserve(85, Decimal("0.80"))


def test_a_call_whose_usage_was_not_told_is_charged_what_was_reserved() -> None:
    """Not told is not free."""
    budget = Budget(tokens=100)
    budget.reserve(70, None).settle(None, None)
    assert (budget.statistics().spent_tokens, budget.statistics().num_unreported) == (70, 1)


def test_a_released_call_costs_nothing_but_counts_as_a_call() -> None:
    """A call that failed may have been billed as a request, not in tokens."""
    budget = Budget(calls=1, tokens=10)
    budget.reserve(10, None).release()
    assert budget.statistics().reserved_tokens == 0
    with pytest.raises(BudgetExceededError, match="1 calls"):
        budget.reserve(1, None)


def test_limits_per_call_hold_for_each_call() -> None:
    """One call may not take more, however much is left in all."""
    with pytest.raises(BudgetExceededError, match="50 tokens per call"):
        Budget(tokens_per_call=50).reserve(51, None)
    with pytest.raises(BudgetExceededError, match=r"\$0.1 per call"):
        Budget(usd_per_call=0.1).reserve(1, Decimal("0.2"))


def test_dollars_cannot_be_limited_without_a_price() -> None:
    """An unknown price is refused, not taken for nothing."""
    with pytest.raises(UnknownPriceError) as caught:
        Budget(usd=1).reserve(1, None)
    assert "PriceTable" in caught.value.hint


def test_a_parent_is_charged_too_and_its_limit_holds() -> None:
    """What the parent refuses is not left reserved below it, nor the other way round."""
    run = Budget(tokens=100)
    chat = Budget(tokens=1000, parent=run)
    chat.reserve(80, None).settle(Usage(80, 0), None)
    with pytest.raises(BudgetExceededError, match="100 tokens"):
        chat.reserve(30, None)
    narrow = Budget(tokens=5, parent=run)
    with pytest.raises(BudgetExceededError, match="5 tokens"):
        narrow.reserve(10, None)
    assert (run.statistics().reserved_tokens, chat.statistics().reserved_tokens) == (0, 0)
    assert run.statistics().num_calls == 1


def test_the_room_for_an_answer_is_the_narrowest_of_all_limits() -> None:
    """Tokens and dollars, per call and in all, of the budget and its parent."""
    assert Budget().completion_room(10, per_token) is None
    assert Budget(tokens=100).completion_room(10, per_token) == 90
    assert Budget(tokens=100, usd="0.05").completion_room(10, per_token) == 20
    assert Budget(tokens=100, parent=Budget(tokens=30)).completion_room(10, per_token) == 20
    assert (Budget(usd="0.001").completion_room(10, per_token) or 0) < 0


def test_a_limit_that_makes_no_sense_is_refused() -> None:
    """Limits are validated where they are made."""
    with pytest.raises(ValueError, match="tokens"):
        Budget(tokens=-1)
    with pytest.raises(ValueError, match="usd"):
        Budget(usd=-0.5)


@given(
    limit=st.integers(0, 500),
    calls=st.lists(st.tuples(st.integers(0, 200), st.floats(0, 1), st.booleans()), max_size=30),
)
def test_calls_that_keep_to_their_reservation_never_exceed_a_budget(
    limit: int, calls: list[tuple[int, float, bool]]
) -> None:
    """However calls overlap, fail or use less than they might, the sum stays within the limit."""
    budget = Budget(tokens=limit)
    under_way = []
    for wanted, used, is_over in calls:
        with contextlib.suppress(BudgetExceededError):
            under_way.append((budget.reserve(wanted, None), int(wanted * used)))
        if is_over and under_way:
            reservation, tokens = under_way.pop(0)
            reservation.settle(Usage(tokens, 0), None)
        stats = budget.statistics()
        assert stats.spent_tokens + stats.reserved_tokens <= limit
