"""Budgets: their periods, and what other servers spend."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from antiphon.accounts import Accounts, AccountSettings, KeyBudget, Principal
from antiphon.accounts.budgets import Budgets, period_start_ms
from antiphon.accounts.ledger import write_rows
from antiphon.accounts.principal import BudgetPeriod
from antiphon.accounts.usage import UsageRow, new_row_id
from antiphon.protocol.errors import ApiError

pytestmark = pytest.mark.anyio

NOON = datetime(2026, 3, 15, 12, tzinfo=UTC).timestamp()
DAY_S = 86_400


def row(at_s: float, usd: float) -> UsageRow:
    at_ms = int(at_s * 1000)
    return UsageRow(
        id=new_row_id(at_ms),
        at_ms=at_ms,
        request_id="req_1",
        key_id="key_1",
        kind="chat",
        model_asked="m",
        model_answered="m",
        status=200,
        error_code=None,
        prompt_tokens=1,
        completion_tokens=1,
        cached_tokens=0,
        reasoning_tokens=0,
        cache=None,
        ttft_s=None,
        duration_s=1.0,
        compute_s=None,
        usd=usd,
        saved_usd=None,
    )


@pytest.mark.parametrize(
    ("period", "start"),
    [
        ("day", datetime(2026, 3, 15, tzinfo=UTC)),
        ("month", datetime(2026, 3, 1, tzinfo=UTC)),
        ("total", datetime(1970, 1, 1, tzinfo=UTC)),
    ],
)
def test_periods_are_of_the_calendar_in_utc(period: BudgetPeriod, start: datetime) -> None:
    """A day begins at midnight, a month on its first, and all time in 1970."""
    assert period_start_ms(period, NOON) == start.timestamp() * 1000


async def is_spent(budgets: Budgets, principal: Principal) -> bool:
    try:
        await budgets.check(principal)
    except ApiError as error:
        return error.code == "insufficient_quota"
    return False


async def test_a_budget_begins_anew_with_its_period(accounts: Accounts) -> None:
    """Spent today is spent; tomorrow there is a new budget for the day, and still none for the month."""
    now = [NOON]
    budgets = Budgets(accounts.engine, accounts._ledger, lambda: now[0])
    await write_rows(accounts.engine, [row(NOON, 1.0)], is_retry=False)
    daily = Principal(key_id="key_1", budget=KeyBudget(usd=1.0, period="day"))
    monthly = Principal(key_id="key_1", budget=KeyBudget(usd=1.0, period="month"))
    assert await is_spent(budgets, daily)
    now[0] += DAY_S
    assert not await is_spent(budgets, daily)
    assert await is_spent(budgets, monthly)
    now[0] += 31 * DAY_S
    assert not await is_spent(budgets, monthly)


async def test_what_another_server_spends_is_seen_within_a_second(database_url: str, tmp_path: Path) -> None:
    """The sum is read anew once a second, and kept up with one's own spending in between."""
    accounts = await Accounts.open(AccountSettings(database_url=database_url), tmp_path)
    now = [NOON]
    budgets = Budgets(accounts.engine, accounts._ledger, lambda: now[0])
    principal = Principal(key_id="key_1", budget=KeyBudget(usd=1.0))
    assert not await is_spent(budgets, principal)
    budgets.add("key_1", 0.5)
    assert not await is_spent(budgets, principal)
    await write_rows(accounts.engine, [row(NOON, 1.0)], is_retry=False)
    now[0] += 1.0
    assert await is_spent(budgets, principal)
    await accounts.aclose()


async def test_rows_that_wait_are_counted_once(accounts: Accounts) -> None:
    """What is not committed yet counts as well, and not twice once it is."""
    budgets = Budgets(accounts.engine, accounts._ledger, lambda: NOON)
    accounts._ledger.append(row(NOON, 0.4))
    assert await budgets._current("key_1", KeyBudget(usd=1.0)) == pytest.approx(0.4)
    await accounts.flush()
    fresh = Budgets(accounts.engine, accounts._ledger, lambda: NOON)
    assert await fresh._current("key_1", KeyBudget(usd=1.0)) == pytest.approx(0.4)


async def test_a_clock_that_went_back_does_not_hide_what_others_spend(accounts: Accounts) -> None:
    """What was read an hour in the future is read again."""
    times = iter([NOON, NOON - 3600])
    budgets = Budgets(accounts.engine, accounts._ledger, lambda: next(times))
    principal = Principal(key_id="key_1", name="one", budget=KeyBudget(usd=1.0))
    await budgets.check(principal)
    await write_rows(accounts.engine, [row(NOON, 1.0)], is_retry=False)
    with pytest.raises(ApiError, match="exceeded your current quota"):
        await budgets.check(principal)
