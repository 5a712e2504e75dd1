"""The face of accounts: keys, limits, budgets and rows together."""

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import select

from antiphon.accounts import (
    Accounts,
    AccountSettings,
    Admission,
    KeyBudget,
    Kind,
    Limits,
    ModelPrice,
    Outcome,
    Principal,
)
from antiphon.accounts.keys import KeyStore
from antiphon.accounts.schema import usage
from antiphon.protocol.errors import ApiError
from antiphon.protocol.events import Usage

pytestmark = pytest.mark.anyio


def outcome(prompt: int = 10, completion: int = 5, *, status: int = 200, model: str | None = "small") -> Outcome:
    return Outcome(
        request_id="req_1",
        started_at=1_700_000_000.0,
        duration_s=0.5,
        model=model,
        usage=Usage(prompt, completion),
        status=status,
    )


async def admit(
    accounts: Accounts, principal: Principal, *, model: str = "gpt-4o", kind: Kind = "chat", n_tokens: int = 10
) -> Admission:
    return await accounts.admit(principal, model=model, kind=kind, estimated_tokens=n_tokens, request_id="req_1")


async def rows(accounts: Accounts) -> list[dict[str, object]]:
    await accounts.flush()
    async with accounts.engine.connect() as connection:
        return [dict(row) for row in (await connection.execute(select(usage).order_by(usage.c.id))).mappings()]


async def test_without_a_key_everybody_is_let_in(accounts: Accounts) -> None:
    """In open mode any key is accepted, and none."""
    assert accounts.is_open
    for authorization in (None, "Bearer anything", "Bearer sk-test"):
        principal = await accounts.authenticate(authorization)
        assert principal.key_id is None


async def test_the_first_key_closes_the_server(accounts: Accounts, store: KeyStore) -> None:
    """Once a key exists it is asked for, and revoking it does not open the server again."""
    key, _ = await store.create(Principal(name="one"))
    assert (await accounts.authenticate(f"Bearer {key}")).name == "one"
    await store.revoke("one")
    for authorization in (None, "Bearer anything", f"Bearer {key}"):
        with pytest.raises(ApiError) as caught:
            await accounts.authenticate(authorization)
        assert caught.value.status == 401
    assert not accounts.is_open


async def test_a_finished_request_leaves_its_row(accounts: Accounts, store: KeyStore) -> None:
    """The row says who asked what, who answered, how much and how long."""
    key, record = await store.create(Principal(name="one"))
    admission = await admit(accounts, await accounts.authenticate(f"Bearer {key}"))
    await admission.settle(outcome(100, 20))
    (row,) = await rows(accounts)
    assert row["key_id"] == record.principal.key_id
    assert (row["model_asked"], row["model_answered"], row["status"]) == ("gpt-4o", "small", 200)
    assert (row["prompt_tokens"], row["completion_tokens"], row["duration_s"]) == (100, 20, 0.5)
    assert row["usd"] is None
    assert row["at_ms"] == 1_700_000_000_000


async def test_a_request_is_settled_once(accounts: Accounts) -> None:
    """Settling twice is a fault of the caller, not a second row."""
    admission = await admit(accounts, await accounts.authenticate(None))
    await admission.settle(outcome())
    with pytest.raises(RuntimeError, match="settled already"):
        await admission.settle(outcome())
    assert len(await rows(accounts)) == 1


async def test_a_model_that_the_key_may_not_use_does_not_exist(accounts: Accounts, store: KeyStore) -> None:
    """A key's list of models holds, patterns included; the refusal leaves a row."""
    key, _ = await store.create(Principal(name="one", models=("gpt-4o", "text-embedding-*")))
    principal = await accounts.authenticate(f"Bearer {key}")
    await (await admit(accounts, principal)).settle(outcome())
    await (await admit(accounts, principal, model="text-embedding-3-small", kind="embedding")).settle(outcome())
    with pytest.raises(ApiError) as caught:
        await admit(accounts, principal, model="gpt-4o-mini")
    assert (caught.value.status, caught.value.code) == (404, "model_not_found")
    assert (await rows(accounts))[-1]["error_code"] == "model_not_found"


async def test_a_spent_budget_refuses_before_any_work(tmp_path: Path) -> None:
    """A key with a budget of one cent is refused after spending it, with the quota error and no retry."""
    accounts = await Accounts.open(AccountSettings(prices={"small": ModelPrice(input=1_000.0)}), tmp_path)
    principal = Principal(key_id="key_1", name="one", budget=KeyBudget(usd=0.01))
    await (await admit(accounts, principal)).settle(outcome(9, 0))
    await (await admit(accounts, principal)).settle(outcome(1, 0))
    with pytest.raises(ApiError) as caught:
        await admit(accounts, principal)
    error = caught.value
    assert (error.status, error.type, error.code) == (429, "insufficient_quota", "insufficient_quota")
    assert error.headers["x-should-retry"] == "false"
    await accounts.aclose()


async def test_a_budget_outlives_a_restart(tmp_path: Path) -> None:
    """What was spent is read from the database."""
    settings = AccountSettings(prices={"small": ModelPrice(input=1_000.0)})
    principal = Principal(key_id="key_1", name="one", budget=KeyBudget(usd=0.01))
    first = await Accounts.open(settings, tmp_path)
    await (await admit(first, principal)).settle(outcome(10, 0))
    await first.aclose()
    second = await Accounts.open(settings, tmp_path)
    with pytest.raises(ApiError, match="exceeded your current quota"):
        await admit(second, principal)
    await second.aclose()


async def test_too_many_requests(tmp_path: Path) -> None:
    """The request past the limit gets OpenAI's 429, with the wait in the text and in both headers."""
    accounts = await Accounts.open(AccountSettings(rpm=3), tmp_path)
    principal = await accounts.authenticate(None)
    for _ in range(3):
        await (await admit(accounts, principal)).settle(outcome())
    with pytest.raises(ApiError) as caught:
        await admit(accounts, principal)
    error = caught.value
    assert (error.status, error.type, error.code) == (429, "requests", "rate_limit_exceeded")
    assert error.message.startswith(
        "Rate limit reached for gpt-4o in organization org-antiphon on requests per min (RPM): "
        "Limit 3, Used 3, Requested 1. Please try again in "
    )
    assert error.headers["Retry-After"] == "20"
    assert 19_000 < int(error.headers["retry-after-ms"]) <= 20_000
    assert error.headers["x-ratelimit-remaining-requests"] == "0"
    assert (await rows(accounts))[-1]["status"] == 429
    await accounts.aclose()


async def test_a_request_larger_than_the_limit_is_told_not_to_retry(tmp_path: Path) -> None:
    """What can never fit says so, counts as a request and for no tokens, and shows the limits as every 429 does."""
    accounts = await Accounts.open(AccountSettings(rpm=60, tpm=30_000), tmp_path)
    with pytest.raises(ApiError) as caught:
        await admit(accounts, await accounts.authenticate(None), n_tokens=31_538)
    error = caught.value
    assert error.message.startswith(
        "Request too large for gpt-4o in organization org-antiphon on tokens per min (TPM): Limit 30000, Requested 31538."
    )
    assert (error.type, error.headers["x-should-retry"]) == ("tokens", "false")
    assert "Retry-After" not in error.headers
    assert error.headers["x-ratelimit-remaining-requests"] == "59"
    assert error.headers["x-ratelimit-remaining-tokens"] == "30000"
    await accounts.aclose()


async def test_a_keys_own_limits_go_before_the_settings_and_those_before_the_tier(tmp_path: Path) -> None:
    """Each number is looked up by itself: key, settings, tier."""
    accounts = await Accounts.open(AccountSettings(tier="tier1", rpm=7), tmp_path)
    principal = Principal(key_id="key_1", limits=Limits(rpd=9))
    assert accounts.limits_of(principal, "gpt-4o", "chat") == Limits(rpm=7, tpm=30_000, rpd=9)
    assert accounts.limits_of(principal, "gpt-4o-mini", "chat") == Limits(rpm=7, tpm=200_000, rpd=9)
    assert accounts.limits_of(principal, "any", "embedding") == Limits(rpm=7, tpm=1_000_000, rpd=9)
    await accounts.aclose()


async def test_nothing_is_limited_unless_asked_for(accounts: Accounts) -> None:
    """Without limits there are no rate-limit headers either."""
    admission = await admit(accounts, await accounts.authenticate(None), n_tokens=10**9)
    assert admission.headers() == {}
    await admission.settle(outcome())


async def test_real_usage_replaces_the_estimate(tmp_path: Path) -> None:
    """Reserved tokens that were not used are free again at once."""
    accounts = await Accounts.open(AccountSettings(tpm=1_000), tmp_path)
    principal = await accounts.authenticate(None)
    first = await admit(accounts, principal, n_tokens=1_000)
    assert first.headers()["x-ratelimit-remaining-tokens"] == "0"
    await first.settle(outcome(5, 5))
    second = await admit(accounts, principal, n_tokens=900)
    assert int(second.headers()["x-ratelimit-remaining-tokens"]) in {90, 91}
    await second.settle(outcome())
    await accounts.aclose()


async def test_a_failed_request_counts_as_a_request(tmp_path: Path) -> None:
    """A request that failed gives back its tokens and not its place in the minute."""
    accounts = await Accounts.open(AccountSettings(rpm=1, tpm=100), tmp_path)
    principal = await accounts.authenticate(None)
    await (await admit(accounts, principal, n_tokens=100)).settle(outcome(0, 0, status=500, model=None))
    with pytest.raises(ApiError, match=r"requests per min \(RPM\)"):
        await admit(accounts, principal)
    await accounts.aclose()


async def test_concurrency_is_freed_by_settling(tmp_path: Path) -> None:
    """A key with two requests in flight waits for one of them to end."""
    accounts = await Accounts.open(AccountSettings(concurrency=2), tmp_path)
    principal = await accounts.authenticate(None)
    first, second = await admit(accounts, principal), await admit(accounts, principal, model="other")
    with pytest.raises(ApiError, match="concurrent requests: Limit 2, Used 2") as caught:
        await admit(accounts, principal)
    assert caught.value.headers["Retry-After"] == "1"
    await first.settle(outcome())
    await (await admit(accounts, principal)).settle(outcome())
    await second.settle(outcome())
    assert accounts.statistics().limiter.in_flight == 0
    await accounts.aclose()


async def test_a_client_that_leaves_while_it_is_admitted_has_its_row(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Limits and budgets may have to be asked elsewhere; who leaves meanwhile is in the ledger."""
    asked = asyncio.Event()

    async def never(*_: object, **__: object) -> None:
        asked.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(accounts._limiter, "reserve", never)
    admitting = asyncio.ensure_future(admit(accounts, await accounts.authenticate(None)))
    await asked.wait()
    admitting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await admitting
    (row,) = await rows(accounts)
    assert (row["status"], row["error_code"]) == (499, "client_closed")


async def test_work_in_the_background_that_says_when_to_retry_has_no_row(tmp_path: Path) -> None:
    """It asks again and was refused nothing; what can never pass has a row, as every refusal."""
    accounts = await Accounts.open(AccountSettings(tpm=1000), tmp_path)
    for n_tokens, says_when_to_retry in ((400, True), (1001, False)):
        admission = await admit(accounts, Principal(), n_tokens=400 if says_when_to_retry else 1)
        with pytest.raises(ApiError) as caught:
            await accounts.admit(
                Principal(), model="gpt-4o", kind="chat", estimated_tokens=n_tokens, request_id="req_2", yields=True
            )
        assert ("Retry-After" in caught.value.headers) == says_when_to_retry
        await admission.settle(outcome(0, 0))
    assert [row["request_id"] for row in await rows(accounts)].count("req_2") == 1
    await accounts.aclose()
