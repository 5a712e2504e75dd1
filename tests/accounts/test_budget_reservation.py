"""Budgets under concurrency: the estimated cost of requests in flight is reserved, and settled at the real cost."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from antiphon.accounts import Accounts, AccountSettings, Admission, KeyBudget, Kind, ModelPrice, Outcome, Principal
from antiphon.accounts.limiter.memory import MemoryLimiter
from antiphon.accounts.prices import ASSUMED_ANSWER_TOKENS, PriceBook
from antiphon.protocol.errors import ApiError
from antiphon.protocol.events import Usage

pytestmark = pytest.mark.anyio

PRICES = {"small": ModelPrice(input=1_000.0, output=1_000.0)}  # a token costs a tenth of a cent
USD_PER_TOKEN = 0.001


def outcome(tokens: int, *, status: int = 200) -> Outcome:
    return Outcome(
        request_id="req_1",
        started_at=1_700_000_000.0,
        duration_s=0.5,
        model="small",
        usage=Usage(0, tokens),
        status=status,
    )


async def admit(accounts: Accounts, principal: Principal, tokens: int, *, kind: Kind = "chat") -> Admission:
    return await accounts.admit(
        principal, model="gpt-4o", kind=kind, estimated_tokens=tokens, request_id="req_1", expected=Usage(0, tokens)
    )


async def admitted(accounts: Accounts, principal: Principal, tokens: int) -> Admission | None:
    try:
        return await admit(accounts, principal, tokens)
    except ApiError as error:
        if error.code not in {"insufficient_quota", "rate_limit_exceeded"}:
            raise
        return None


@given(data=st.data(), budget_tokens=st.integers(1, 60), overrun=st.integers(0, 3))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_requests_at_once_never_exceed_a_budget_by_more_than_their_estimates_were_wrong(
    tmp_path: Path, data: st.DataObject, budget_tokens: int, overrun: int
) -> None:
    """Whatever starts and ends in whatever order: spent is at most the budget, the errors, and one request alone."""
    accounts = await Accounts.open(AccountSettings(prices=PRICES), tmp_path)
    key_id = f"key_{data.draw(st.uuids())}"[:32]
    principal = Principal(key_id=key_id, name="one", budget=KeyBudget(usd=budget_tokens * USD_PER_TOKEN))
    in_flight: list[tuple[Admission, int]] = []
    spent, errors, largest_alone = 0, 0, 0
    for _ in range(data.draw(st.integers(1, 30))):
        if in_flight and data.draw(st.booleans()):
            admission, tokens = in_flight.pop(data.draw(st.integers(0, len(in_flight) - 1)))
            used = data.draw(st.integers(0, tokens + overrun))
            errors += max(0, used - tokens)
            spent += used
            await admission.settle(outcome(used))
        else:
            tokens = data.draw(st.integers(1, 40))
            admission = await admitted(accounts, principal, tokens)
            if admission is not None:
                largest_alone = largest_alone if in_flight else max(largest_alone, tokens)
                in_flight.append((admission, tokens))
    for admission, tokens in in_flight:
        spent += tokens
        await admission.settle(outcome(tokens))
    assert spent <= budget_tokens + errors + largest_alone
    await accounts.aclose()


async def test_a_hundred_requests_at_once_do_not_exceed_a_budget(tmp_path: Path) -> None:
    """A budget of one cent admits as many as it pays for; the others may come again once these have ended."""
    accounts = await Accounts.open(AccountSettings(prices=PRICES), tmp_path)
    principal = Principal(key_id="key_1", name="one", budget=KeyBudget(usd=0.01))
    found = [await admitted(accounts, principal, 2) for _ in range(100)]
    let_in = [admission for admission in found if admission is not None]
    assert len(let_in) == 5
    with pytest.raises(ApiError, match="reserved for its requests in flight") as caught:
        await admit(accounts, principal, 2)
    assert caught.value.headers["Retry-After"] == "1"
    for admission in let_in:
        await admission.settle(outcome(1))
    assert len([a for a in [await admitted(accounts, principal, 2) for _ in range(100)] if a is not None]) == 2
    await accounts.aclose()


async def test_an_answer_of_any_length_is_reserved_at_an_assumed_length(tmp_path: Path) -> None:
    """Without max_tokens an answer is taken as long; a small budget then admits one request at a time."""
    accounts = await Accounts.open(AccountSettings(prices=PRICES), tmp_path)
    principal = Principal(key_id="key_1", name="one", budget=KeyBudget(usd=0.01))
    alone = await admit(accounts, principal, 0)
    assert await admitted(accounts, principal, 0) is None
    await alone.settle(outcome(2))
    assert await admitted(accounts, principal, 0) is not None
    await accounts.aclose()


async def test_a_request_that_the_limits_refuse_gives_its_dollars_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused, failed or cancelled while it was admitted: nothing stays reserved."""
    accounts = await Accounts.open(AccountSettings(prices=PRICES, concurrency=1), tmp_path)
    principal = Principal(key_id="key_1", name="one", budget=KeyBudget(usd=0.01))
    first = await admit(accounts, principal, 2)
    for _ in range(20):
        assert await admitted(accounts, principal, 2) is None
    await first.settle(outcome(0, status=500))

    async def broken(*_: object, **__: object) -> None:
        raise ConnectionError

    with monkeypatch.context() as patched:
        patched.setattr(MemoryLimiter, "reserve", broken)
        with pytest.raises(ConnectionError):
            await admit(accounts, principal, 2)
    assert await accounts._limiter.hold("key_1", 1.0, 0.0) is not None  # nothing else is in flight
    await accounts.aclose()


@pytest.mark.parametrize("told", [Usage(2**53, 0), Usage(0, 2_000 * 2**53), Usage(-5, 0)])
async def test_an_upstream_that_reports_nonsense_uses_up_no_limit_and_no_budget(tmp_path: Path, told: Usage) -> None:
    """A count that no request can have is replaced by the estimate, for the limits, the budget and the row."""
    accounts = await Accounts.open(AccountSettings(prices=PRICES, tpm=100), tmp_path)
    principal = Principal(key_id="key_1", name="one", budget=KeyBudget(usd=0.01))
    admission = await admit(accounts, principal, 4)
    await admission.settle(msgspec.structs.replace(outcome(0), usage=told))
    again = await admit(accounts, principal, 4)
    assert int(again.headers()["x-ratelimit-remaining-tokens"]) in {92, 93}
    await again.settle(outcome(4))
    assert await accounts._budgets._current("key_1", KeyBudget(usd=0.01)) == pytest.approx(0.008)
    await accounts.aclose()


@pytest.mark.parametrize(
    ("answers", "kind", "expected", "tokens"),
    [
        ([], "chat", Usage(10, 5), 15),  # nothing is known yet: the dearest price
        ([("small", None)], "chat", Usage(10, 5), 15),
        ([("free", 1.0)], "chat", Usage(10, 5), 0),  # an engine of this machine, without a price of one's own
        ([], "embedding", Usage(10, 0), 10),
        ([], "completion", Usage(10, 0), 10 + ASSUMED_ANSWER_TOKENS),
    ],
)
def test_the_estimate_follows_the_model_that_answered_last(
    answers: list[tuple[str, float | None]], kind: Kind, expected: Usage, tokens: int
) -> None:
    """A name is priced by the model behind it, and by the dearest one before that is known."""
    book = PriceBook({**PRICES, "cheap": ModelPrice(input=1.0)}, "none")
    for model, compute_s in answers:
        answered = Outcome(request_id="r", started_at=0.0, duration_s=0.0, model=model, compute_s=compute_s)
        book.usd(answered, "alias")
    assert book.estimated_usd("alias", expected, kind) == pytest.approx(tokens * USD_PER_TOKEN)
