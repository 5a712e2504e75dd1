"""Which model."""

from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel, Field
from tests.toolkit.scripted_endpoint import Endpoint, answer, usage

from antiphon.toolkit.calls.model_families import family_of
from antiphon.toolkit.costs.choose import OPENAI_CARDS, ModelCard, Task, choose_model
from antiphon.toolkit.costs.prices import OPENAI, Price, PriceTable, known_model
from antiphon.toolkit.costs.report import Report
from antiphon.toolkit.errors import NoModelError, OutputError
from antiphon.toolkit.structured.cascade import acascade, cascade
from antiphon.toolkit.usage import Usage

PRICES = PriceTable({"small": Price(1, 1), "large": Price(10, 10)})


class Age(BaseModel):
    years: int = Field(ge=0)


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (Task(1_000), "gpt-4.1-nano"),
        (Task(1_000, structured_output=True, tools=True, images=True), "gpt-4.1-nano"),
        (Task(500_000), "gpt-4.1-nano"),
        (Task(1_000, kind="classification"), "gpt-4.1-nano"),
        (Task(1_000, kind="chat"), "gpt-4.1-mini"),
        (Task(600_000, kind="long document"), "gpt-4.1-mini"),
        (Task(1_000, kind="coding"), "gpt-5"),
        (Task(1_000, 500, reasoning_tokens=0), "gpt-5-nano"),
        (Task(1_000, kind="embedding"), "text-embedding-3-small"),
    ],
)
def test_the_cheapest_model_that_can_do_it_is_chosen(task: Task, expected: str) -> None:
    """With the most that the call costs."""
    choice = choose_model(task)
    assert choice.model == expected
    assert choice.usd > 0


def test_every_card_is_of_a_model_with_a_price_and_a_context_that_agrees() -> None:
    """Those of genai-prices are rounded for the gpt-4.1 family alone."""
    for card in OPENAI_CARDS:
        known = known_model(card.name)
        assert known is not None, card.name
        assert card.context_tokens == pytest.approx(known.context_window, rel=0.05), card.name
        assert PriceTable().cost(Usage(1_000), card.name) is not None
        assert family_of(card.name, OPENAI).reasons is card.reasons, card.name


def test_each_model_that_was_not_chosen_has_its_reason() -> None:
    """Context, length of answers, abilities, price."""
    cards = [
        ModelCard("tiny", 1_000, 500, price=Price(0)),
        ModelCard("terse", 9_000, 10, price=Price(0)),
        ModelCard("plain", 9_000, 900, has_tools=False, has_structured_output=False, has_images=False, price=Price(0)),
        ModelCard("secret", 9_000, 900),
        ModelCard("dear", 9_000, 900, price=Price(100, 100)),
        ModelCard("right", 9_000, 900, price=Price(1, 1)),
    ]
    choice = choose_model(Task(1_000, 100, tools=True), cards)
    text = str(choice)
    assert choice.model == "right"
    for reason in ("its context is 1000", "at most 10 tokens", "has no tools", "price is unknown", "costs 0.110000"):
        assert reason in text


def test_a_task_that_nobody_can_do_is_an_error_with_the_reasons() -> None:
    """Too long for every context, or too dear."""
    with pytest.raises(NoModelError, match="gpt-4o-mini: its context"):
        choose_model(Task(5_000_000))
    with pytest.raises(NoModelError, match="it costs"):
        choose_model(Task(1_000, max_usd="0.0000001"))


def test_a_small_models_valid_answer_is_taken(endpoint: Endpoint) -> None:
    """The larger is not asked, and the saving is noted."""
    endpoint.replies = [answer('{"years": 3}', tokens=usage(100, 0))]
    report = Report()
    result = cascade(Age, "x", models=["small", "large"], client=endpoint.client(), prices=PRICES, report=report)
    assert (result.reply.parsed.years, result.rejected, len(endpoint.requests)) == (3, (), 1)
    assert result.saved == Decimal("0.0009")
    assert report.statistics().saved_by_cascade == Decimal("0.0009")


def test_a_larger_model_is_asked_where_the_answer_will_not_do(endpoint: Endpoint) -> None:
    """Both are paid for, and the first one's answer is kept."""
    endpoint.replies = [answer('{"years": -3}', tokens=usage(100, 0)), answer('{"years": 3}', tokens=usage(100, 0))]
    result = cascade(Age, "x", models=["small", "large"], client=endpoint.client(), prices=PRICES)
    assert [request["model"] for request in endpoint.requests] == ["small", "large"]
    assert (result.rejected[0].model, result.rejected[0].text) == ("small", '{"years": -3}')
    assert result.cost == Decimal("0.0011")
    assert result.saved == Decimal("-0.0001")


@pytest.mark.anyio
async def test_ones_own_judgement_may_send_it_on(endpoint: Endpoint) -> None:
    """With a reason; it may be async. Without a price the saving is unknown."""
    endpoint.replies = [answer('{"years": 3}'), answer('{"years": 30}')]

    async def accept(age: Age) -> bool | str:
        return age.years > 18 or "too young"

    models = ["small", "large"]
    result = await acascade(Age, "x", models=models, accept=accept, client=endpoint.async_client())
    assert (result.reply.parsed.years, result.rejected[0].why, result.saved) == (30, "too young", None)


def test_when_no_answer_will_do_every_reason_is_given(endpoint: Endpoint) -> None:
    """And what all of them took."""
    endpoint.replies = [answer('{"years": -1}')]
    with pytest.raises(OutputError, match=r"small: .* large: ") as caught:
        cascade(Age, "x", models=["small", "large"], client=endpoint.client())
    assert caught.value.usage is not None
    assert caught.value.usage.num_calls == 2


def test_a_cascade_needs_models(endpoint: Endpoint) -> None:
    """And no other way to name one."""
    options: Any = {"model": "m"}
    for models in ([], ["a"]):
        with pytest.raises(ValueError, match="models="):
            cascade(Age, "x", models=models, client=endpoint.client(), **(options if models else {}))
