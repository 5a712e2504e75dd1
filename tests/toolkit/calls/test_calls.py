"""The way of every call."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from openai import BadRequestError, InternalServerError, RateLimitError
from tests.toolkit.moved_clock import MovedClock
from tests.toolkit.scripted_endpoint import Endpoint, answer, broken_stream, error, json_route, usage

from antiphon.toolkit.calls.breaker import CircuitBreaker
from antiphon.toolkit.calls.caller import CompletedCall, ModelCaller
from antiphon.toolkit.calls.options import CallOptions, Fallback
from antiphon.toolkit.calls.response_cache import ResponseCache
from antiphon.toolkit.calls.retry import RetryPolicy
from antiphon.toolkit.calls.streaming import Piece
from antiphon.toolkit.clients import Connection
from antiphon.toolkit.costs.budget import Budget
from antiphon.toolkit.costs.prices import Price, PriceTable
from antiphon.toolkit.costs.report import Report
from antiphon.toolkit.errors import BudgetExceededError, CircuitOpenError, RetryExhaustedError

pytestmark = pytest.mark.anyio
REQUEST: dict[str, Any] = {"model": "small", "messages": [{"role": "user", "content": "hi"}]}
FIXED = {**REQUEST, "temperature": 0}
PRICES = PriceTable({"small": Price(prompt=1, completion=2, cached=0.5), "large": Price(prompt=10, completion=20)})


def caller(endpoint: Endpoint, **options: Any) -> ModelCaller:
    return ModelCaller(Connection(endpoint.async_client(max_retries=0)), CallOptions(**options))


async def test_a_call_without_options_goes_to_the_client_as_it_stands(endpoint: Endpoint) -> None:
    """The request is the caller's, and nothing else is asked of the endpoint."""
    done = await caller(endpoint).complete(REQUEST)
    assert endpoint.requests == [REQUEST]
    assert endpoint.asked == []
    assert (done.record.model, done.record.answered_by, done.record.cost) == ("small", "small-dated", None)


async def test_a_record_has_what_the_call_took(endpoint: Endpoint) -> None:
    """Dollars by price, and what the server's prompt cache saved."""
    endpoint.replies = [answer(tokens=usage(1000, 100, cached=400))]
    report = Report()
    done = await caller(endpoint, prices=PRICES, report=report).complete(REQUEST)
    assert done.record.cost == Decimal("0.001")
    assert done.record.saved_by_prompt_cache == Decimal("0.0002")
    assert report.records == (done.record,)


async def test_a_fallback_answers_when_a_model_fails(endpoint: Endpoint) -> None:
    """The record names who failed, and why."""
    endpoint.replies = [error(404, "model_not_found", message="not here"), error(503), answer("saved")]
    done = await caller(endpoint, fallbacks=["medium", "large"]).complete(REQUEST)
    assert [request["model"] for request in endpoint.requests] == ["small", "medium", "large"]
    assert (done.record.model, [model for model, _ in done.record.failed_over]) == ("large", ["small", "medium"])


async def test_a_fallback_may_be_at_another_endpoint(endpoint: Endpoint) -> None:
    """With a client of its own, here of the other kind."""
    other = Endpoint([answer("from afar")])
    endpoint.replies = [error(429, "insufficient_quota")]
    done = await caller(endpoint, fallbacks=[Fallback("gpt-4o", other.client())]).complete(REQUEST)
    assert done.completion.choices[0].message.content == "from afar"


async def test_a_bad_request_is_not_sent_elsewhere(endpoint: Endpoint) -> None:
    """Another model would refuse it too."""
    endpoint.replies = [error(400)]
    with pytest.raises(BadRequestError):
        await caller(endpoint, fallbacks=["large"]).complete(REQUEST)
    assert len(endpoint.requests) == 1


async def test_the_last_models_error_is_raised(endpoint: Endpoint) -> None:
    """When all of them fail."""
    endpoint.replies = [error(503), error(429)]
    with pytest.raises(RateLimitError):
        await caller(endpoint, fallbacks=["large"]).complete(REQUEST)


async def test_a_retry_policy_replaces_the_clients_own_retries(endpoint: Endpoint) -> None:
    """Two tries are two requests, although the client would retry each."""
    endpoint.replies = [error(500)]
    options: Any = {"retry": RetryPolicy(attempts=2, initial_s=0.001, longest_s=0.001)}
    eager = ModelCaller(Connection(endpoint.async_client(max_retries=5)), options)
    with pytest.raises(RetryExhaustedError):
        await eager.complete(REQUEST)
    assert len(endpoint.requests) == 2


async def test_an_open_circuit_goes_to_the_fallback_at_once(endpoint: Endpoint) -> None:
    """The failing endpoint is left alone."""
    breaker = CircuitBreaker(failures=1, clock=MovedClock())
    endpoint.replies = [error(500)]
    with pytest.raises(InternalServerError):
        await caller(endpoint, breaker=breaker).complete(REQUEST)
    with pytest.raises(CircuitOpenError):
        await caller(endpoint, breaker=breaker).complete(REQUEST)
    assert len(endpoint.requests) == 1


async def test_a_budget_stops_before_the_call(endpoint: Endpoint) -> None:
    """Nothing is sent."""
    with pytest.raises(BudgetExceededError):
        await caller(endpoint, budget=Budget(tokens=3)).complete(REQUEST)
    assert endpoint.requests == []


async def test_a_budget_caps_an_answer_that_the_request_does_not(endpoint: Endpoint) -> None:
    """What is left is the most that may be generated; a limit of the request's own stays."""
    endpoint.routes = {"/tokenize": json_route({"count": 30})}
    budget = Budget(tokens=100)
    await caller(endpoint, budget=budget).complete(REQUEST)
    await caller(endpoint, budget=budget).complete({**REQUEST, "max_completion_tokens": 7})
    assert [request["max_completion_tokens"] for request in endpoint.requests] == [70, 7]
    assert budget.statistics().spent_tokens == 30


async def test_a_failed_call_gives_its_reservation_back(endpoint: Endpoint) -> None:
    """Also when it is one of several models."""
    endpoint.replies = [error(500), answer()]
    budget = Budget(usd=1)
    await caller(endpoint, budget=budget, prices=PRICES, fallbacks=["large"]).complete(REQUEST)
    assert budget.statistics().reserved_usd == 0
    assert budget.statistics().spent_usd == Decimal("0.0002")


async def test_a_deterministic_call_is_answered_from_disk(endpoint: Endpoint, tmp_path: Path) -> None:
    """Also by another process later; the report says what was saved."""
    report = Report()
    for _ in range(2):
        with ResponseCache(tmp_path / "cache.sqlite") as cache:
            done = await caller(endpoint, cache=cache, prices=PRICES, report=report).complete(FIXED)
    assert len(endpoint.requests) == 1
    assert (done.record.from_cache, done.record.cost, done.record.saved_by_cache) == (True, 0, Decimal("0.00002"))
    assert report.statistics().num_from_cache == 1


async def test_calls_that_may_differ_are_not_kept(endpoint: Endpoint, tmp_path: Path) -> None:
    """Neither sampled ones, nor answers that were cut, nor those of a fallback."""
    with ResponseCache(tmp_path / "cache.sqlite") as cache:
        await caller(endpoint, cache=cache).complete(REQUEST)
        endpoint.replies = [answer(finish="length")]
        await caller(endpoint, cache=cache).complete(FIXED)
        endpoint.replies = [error(500), answer()]
        await caller(endpoint, cache=cache, fallbacks=["large"]).complete(FIXED)
        stats = cache.statistics()
        assert (stats.num_entries, stats.num_hits, stats.num_passed_over) == (0, 0, 1)


async def test_any_change_of_a_request_is_another_entry(endpoint: Endpoint, tmp_path: Path) -> None:
    """Model, messages, parameters and endpoint; how it is delivered is not."""
    with ResponseCache(tmp_path / "cache.sqlite") as cache:
        asking = caller(endpoint, cache=cache)
        await asking.complete(FIXED)
        assert asking.cached({**FIXED, "stream": True, "stream_options": {"include_usage": True}}) is not None
        assert asking.cached({**FIXED, "model": "large"}) is None
        assert asking.cached({**FIXED, "seed": 1}) is None
        assert asking.cached({**FIXED, "messages": []}) is None
        elsewhere = caller(Endpoint(base_url="http://other.test/v1"), cache=cache)
        assert elsewhere.cached(FIXED) is None
        cache.clear()
        assert asking.cached(FIXED) is None


async def test_a_stream_left_unread_is_charged_as_reserved(endpoint: Endpoint) -> None:
    """Its usage was never told."""
    endpoint.routes = {"/tokenize": json_route({"count": 30})}
    endpoint.replies = [broken_stream("a")]
    budget, report = Budget(tokens=100), Report()
    pieces = caller(endpoint, budget=budget, report=report).stream({**REQUEST, "max_completion_tokens": 5})
    assert await anext(pieces) == Piece("a")
    await pieces.aclose()
    assert (budget.statistics().spent_tokens, budget.statistics().num_unreported) == (35, 1)
    assert report.statistics().num_unreported == 1


async def test_opening_a_stream_is_retried_and_falls_back(endpoint: Endpoint) -> None:
    """Up to its first chunk a stream is a call like any other."""
    endpoint.replies = [error(500), error(500), answer("hello")]
    policy = RetryPolicy(attempts=2, initial_s=0.001, longest_s=0.001)
    parts = [part async for part in caller(endpoint, retry=policy, fallbacks=["large"]).stream(REQUEST)]
    *pieces, whole = parts
    assert isinstance(whole, CompletedCall)
    assert (whole.record.model, len(endpoint.requests), len(pieces) > 1) == ("large", 3, True)


async def test_the_report_reads_as_a_table(endpoint: Endpoint) -> None:
    """Only what happened has a row."""
    report = Report()
    endpoint.replies = [answer(tokens=usage(1000, 100, cached=400)), answer(finish="length")]
    asking = caller(endpoint, report=report, prices=PRICES)
    await asking.complete(REQUEST)
    await asking.complete({**REQUEST, "model": "unpriced"})
    text = str(report)
    assert "2 (small x 1, unpriced x 1)" in text
    assert "1010 (cached by the server: 400)" in text
    assert "0.001000 + 1 calls of unknown price" in text
    assert "cut at the token limit" in text
    assert "response cache" not in text
