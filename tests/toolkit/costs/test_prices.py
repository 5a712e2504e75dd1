"""Dollars."""

from decimal import Decimal
from typing import Any

import pytest
from tests.toolkit.scripted_endpoint import Endpoint as ScriptedEndpoint
from tests.toolkit.scripted_endpoint import answer, usage

from antiphon.toolkit.chat.chat import Chat
from antiphon.toolkit.clients import Endpoint
from antiphon.toolkit.costs.budget import Budget
from antiphon.toolkit.costs.prices import OPENAI, Price, PriceTable, cost_of
from antiphon.toolkit.errors import BudgetExceededError
from antiphon.toolkit.usage import Usage

LOCAL = Endpoint("http://127.0.0.1:8000/v1")


@pytest.mark.parametrize(
    ("model", "usage", "dollars"),
    [
        ("gpt-4o", Usage(1_000_000, 0), "2.50"),
        ("gpt-4o", Usage(1_000_000, 0, cached_tokens=1_000_000), "1.25"),
        ("gpt-4o", Usage(0, 1_000_000), "10.00"),
        ("gpt-4o-mini-2024-07-18", Usage(1_000_000, 1_000_000), "0.75"),
        ("text-embedding-3-small", Usage(1_000_000, 0), "0.02"),
    ],
)
def test_openais_prices_are_known_also_by_dated_names(model: str, usage: Usage, dollars: str) -> None:
    """They are the published ones, cached prompt tokens apart."""
    assert cost_of(usage, model) == Decimal(dollars)


def test_batch_calls_cost_half() -> None:
    """OpenAI's batch interface has prices of its own."""
    assert cost_of(Usage(1_000_000, 0), "gpt-4o", batch=True) == Decimal("1.25")


def test_an_unknown_price_is_none_not_zero() -> None:
    """Neither an unknown model nor a known name at an unknown endpoint has a price."""
    assert cost_of(Usage(1000, 0), "my-model") is None
    assert cost_of(Usage(1000, 0), "gpt-4o", endpoint=LOCAL) is None


def test_ones_own_price_goes_first_everywhere() -> None:
    """A table of one's own prices local models, exactly."""
    table = PriceTable({"gpt-4o": Price(prompt=0.1, completion=0.2, cached=0.05)})
    usage = Usage(1_000_000, 1_000_000, cached_tokens=500_000)
    assert table.cost(usage, "gpt-4o", LOCAL) == Decimal("0.275")
    assert table.cost(usage, "gpt-4o", OPENAI) == Decimal("0.275")


def test_a_negative_price_is_refused() -> None:
    """A price is validated where it is made."""
    with pytest.raises(ValueError, match="prompt"):
        Price(prompt=-1)


def test_usage_adds_up_and_keeps_what_was_not_told_apart() -> None:
    """None and a number make the number; None and None stay None."""
    total = Usage(1, 2, cached_tokens=None) + Usage(3, 4, cached_tokens=5)
    assert total == Usage(4, 6, cached_tokens=5, reasoning_tokens=None, num_calls=2)
    assert total.total_tokens == 10


def test_what_is_written_to_the_prompt_cache_has_its_own_price() -> None:
    """Where a provider charges for it, known prices and one's own do."""
    usage = Usage(100_000, cache_write_tokens=100_000)
    plain, written = cost_of(Usage(100_000), "gpt-5.6-luna"), cost_of(usage, "gpt-5.6-luna")
    assert plain is not None
    assert written is not None
    assert written / plain == Decimal("1.25")
    own = PriceTable({"mine": Price(prompt=2, cache_write=3), "flat": Price(prompt=2)})
    assert own.cost(Usage(1_000_000, cached_tokens=0, cache_write_tokens=500_000), "mine") == Decimal("2.5")
    assert own.cost(Usage(1_000_000, cache_write_tokens=500_000), "flat") == Decimal(2)


def test_a_batch_at_ones_own_price_costs_half_unless_it_says_otherwise() -> None:
    """Nothing that is asked for is ignored."""
    own = PriceTable({"mine": Price(prompt=2), "same": Price(prompt=2, batch=1)})
    assert own.cost(Usage(1_000_000), "mine", batch=True) == Decimal(1)
    assert own.cost(Usage(1_000_000), "same", batch=True) == Decimal(2)


def test_writes_to_the_prompt_cache_are_read_from_what_the_client_reports() -> None:
    """By chat completions and by responses."""
    details = {"cached_tokens": 1, "cache_write_tokens": 2}
    assert Usage.of_json({"prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": details}) == Usage(
        9, 3, cached_tokens=1, cache_write_tokens=2
    )
    told = {"input_tokens": 9, "output_tokens": 3, "input_tokens_details": details}
    assert Usage.of_json({**told, "output_tokens_details": {"reasoning_tokens": 1}}) == Usage(
        9, 3, cached_tokens=1, reasoning_tokens=1, cache_write_tokens=2
    )


def test_a_service_tier_has_its_own_price(endpoint: ScriptedEndpoint) -> None:
    """Flex is cheaper and priority dearer; the one that processed the request counts, and budgets reserve for it."""
    assert cost_of(Usage(1000, 1000), "gpt-5-mini") == Decimal("0.00225")
    tiers = [PriceTable().cost(Usage(1000, 1000), "gpt-5-mini", service_tier=tier) for tier in ("flex", "priority")]
    assert tiers == [Decimal("0.001125"), Decimal("0.00405")]
    endpoint.base_url = "https://api.openai.com/v1"
    endpoint.replies[:] = [answer("ok", tokens=usage(1000, 1000))]
    dear = Budget(usd="0.003")
    asked: dict[str, Any] = {"model": "gpt-5-mini", "api": "chat", "max_completion_tokens": 1000}
    chat = Chat(client=endpoint.client(), context_tokens=100_000, service_tier="priority", **asked)
    assert chat.send("hi").cost == Decimal("0.00405")
    with pytest.raises(BudgetExceededError):
        Chat(client=endpoint.client(), context_tokens=100_000, service_tier="priority", budget=dear, **asked).send("hi")
    Chat(client=endpoint.client(), context_tokens=100_000, service_tier="flex", budget=dear, **asked).send("hi")
    assert dear.statistics().spent_usd == Decimal("0.001125")
