"""What a request costs, and when nobody knows."""

import math

import pytest

from antiphon.accounts import ModelPrice, Outcome
from antiphon.accounts.prices import PriceBook
from antiphon.protocol.events import CacheStatus, Spared, Usage

MILLION = 1_000_000


def outcome(
    model: str | None,
    usage: Usage,
    *,
    compute_s: float | None = None,
    cache: CacheStatus | None = None,
    spared: Spared | None = None,
) -> Outcome:
    return Outcome(
        request_id="req_1",
        started_at=0.0,
        duration_s=0.0,
        model=model,
        usage=usage,
        compute_s=compute_s,
        cache=cache,
        spared=spared,
    )


def cost(book: PriceBook, outcome: Outcome) -> float | None:
    return book.usd(outcome, "asked")


@pytest.mark.parametrize(
    ("model", "usage", "usd"),
    [
        ("gpt-4o", Usage(MILLION, 0), 2.50),
        ("gpt-4o", Usage(MILLION, 0, cached_tokens=MILLION), 1.25),
        ("gpt-4o", Usage(0, MILLION), 10.00),
        ("gpt-4o-mini-2024-07-18", Usage(MILLION, MILLION, cached_tokens=500_000), 0.15 / 2 + 0.075 / 2 + 0.60),
        ("text-embedding-3-small", Usage(MILLION), 0.02),
        ("text-embedding-3-large", Usage(MILLION), 0.13),
    ],
)
def test_public_prices(model: str, usage: Usage, usd: float) -> None:
    """OpenAI's models cost what OpenAI says, dated names included."""
    assert cost(PriceBook({}, "openai"), outcome(model, usage)) == pytest.approx(usd)


def test_an_unknown_price_is_not_zero() -> None:
    """A model without a price costs None; so does a request that no model answered, and any without a provider."""
    book = PriceBook({}, "openai")
    for _ in range(2):
        assert cost(book, outcome("smollm2-135m-instruct", Usage(10, 10))) is None
    assert cost(book, outcome(None, Usage())) is None
    assert cost(PriceBook({}, None), outcome("gpt-4o", Usage(10, 10))) is None


def test_your_own_price_goes_first() -> None:
    """The table of the settings decides, cached tokens at their own rate or at that of the input."""
    book = PriceBook({"gpt-4o": ModelPrice(input=1, output=2), "b": ModelPrice(input=4, cached_input=1)}, "openai")
    assert cost(book, outcome("gpt-4o", Usage(MILLION, MILLION, cached_tokens=10))) == 3.0
    assert cost(book, outcome("b", Usage(MILLION, MILLION, cached_tokens=MILLION))) == 1.0


def test_a_public_price_does_not_hold_for_this_machine() -> None:
    """A model of the same name on one's own engine is not charged what a provider takes for it."""
    assert cost(PriceBook({}, "openai"), outcome("gpt-oss-20b", Usage(10, 10), compute_s=1.0)) is None
    priced = PriceBook({"gpt-oss-20b": ModelPrice(input=1)}, "openai")
    assert cost(priced, outcome("gpt-oss-20b", Usage(MILLION, 0), compute_s=1.0)) == 1.0


def test_an_answer_out_of_the_cache_costs_nothing() -> None:
    """What was not computed again is free; what was stored for the first time is not."""
    book = PriceBook({}, "openai")
    assert cost(book, outcome("gpt-4o", Usage(10, 10), cache="hit")) == 0.0
    assert cost(book, outcome("gpt-4o", Usage(10, 10), cache="joined")) == 0.0
    assert cost(book, outcome("gpt-4o", Usage(MILLION, 0), cache="miss")) == pytest.approx(2.5)


def test_an_answer_out_of_the_cache_saves_what_it_would_have_cost() -> None:
    """Saved is the price of what was spared, by the same table; nothing spared and no price known are not 0."""
    book = PriceBook({"mine": ModelPrice(input=1, output=2)}, "openai")

    def saved(model: str, spared: Spared | None) -> float | None:
        return book.saved_usd(outcome(model, Usage(), cache="hit", spared=spared), "asked")

    tokens = Usage(MILLION, MILLION)
    assert saved("mine", Spared(tokens, is_local=True)) == 3.0
    assert saved("gpt-4o", Spared(tokens)) == pytest.approx(12.5)
    assert saved("gpt-4o", Spared(tokens, is_local=True)) is None
    assert saved("gpt-4o", None) is None
    assert book.saved_usd(outcome(None, Usage(), spared=Spared(tokens)), "mine") is None


@pytest.mark.parametrize("price", [-1, math.nan, math.inf])
def test_a_price_that_is_no_amount_is_refused(price: float) -> None:
    """TOML can write nan and inf, and no sum would survive them."""
    with pytest.raises(ValueError, match="must be a number that is not negative"):
        ModelPrice(input=price)


def test_a_local_model_can_cost_what_it_stands_for() -> None:
    """A price by the name that was asked for holds where the model that answered has none of its own."""
    book = PriceBook({"gpt-4o": ModelPrice(input=2.5), "special": ModelPrice(input=9)}, "openai")
    local = outcome("smollm2-135m-instruct", Usage(MILLION, 0), compute_s=1.0)
    assert book.usd(local, "gpt-4o") == 2.5
    assert book.usd(local, "gpt-4o-mini") is None
    assert book.usd(outcome("special", Usage(MILLION, 0)), "gpt-4o") == 9


@pytest.mark.parametrize("own", [{}, {"gpt-4o": ModelPrice(input=2.5, cached_input=1.25, output=10)}])
def test_more_cached_tokens_than_the_prompt_has_earn_nothing(own: dict[str, ModelPrice]) -> None:
    """An upstream that counts cached tokens beside the prompt's gives no money back, and its answer has a price."""
    book = PriceBook(own, "openai")
    assert cost(book, outcome("gpt-4o", Usage(MILLION, 0, cached_tokens=3 * MILLION))) == pytest.approx(1.25)


def test_nobodys_public_prices_hold_if_none_are_wanted() -> None:
    """TOML has no word for nothing, so the word is ``none``."""
    assert cost(PriceBook({}, "none"), outcome("gpt-4o", Usage(MILLION, 0))) is None
