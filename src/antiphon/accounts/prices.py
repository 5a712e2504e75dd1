"""What a request costs in dollars: the operator's own table first, then the public prices in ``genai-prices``.

The public prices are the data inside the installed package; nothing is fetched.
"""

from collections.abc import Mapping

import msgspec

from antiphon.accounts.outcome import Kind, Outcome
from antiphon.accounts.settings import ModelPrice
from antiphon.protocol.events import Usage

_MAX_REMEMBERED = 10_000
"""Names of models that are remembered; behind a wildcard route clients can name any number."""

ASSUMED_ANSWER_TOKENS = 4_096
"""The length of an answer that a request does not limit, until it is known."""


class PriceBook:
    """Knows prices by the name of the model that answered."""

    def __init__(self, own: Mapping[str, ModelPrice], provider: str | None) -> None:
        self._own = own
        self._provider = None if provider == "none" else provider
        self._unpriced: set[str] = set()
        self._answered_by: dict[str, tuple[str, bool]] = {}

    def usd(self, outcome: Outcome, model_asked: str) -> float | None:
        """Return dollars; None when no model answered, or it has no price.

        An answer out of the response cache costs 0.
        """
        if outcome.model is None:
            return None
        if outcome.cache in {"hit", "joined"}:
            return 0.0
        is_local = outcome.compute_s is not None
        if len(self._answered_by) >= _MAX_REMEMBERED:
            self._answered_by.clear()
        self._answered_by[model_asked] = outcome.model, is_local
        return self._price(outcome.model, model_asked, outcome.usage, is_local=is_local)

    def estimated_usd(self, model_asked: str, expected: Usage, kind: Kind) -> float:
        """Return what a request may cost before it is answered; 0 where no price is known.

        ``expected`` without completion tokens is an answer of any length, taken as ``ASSUMED_ANSWER_TOKENS``. The model is the
        one that answered this name last. Before the first answer, the dearest of the own and public prices is taken.
        """
        if kind not in {"embedding", "rerank"} and not expected.completion_tokens:
            expected = msgspec.structs.replace(expected, completion_tokens=ASSUMED_ANSWER_TOKENS)
        known = self._answered_by.get(model_asked)
        if known is not None:
            model, is_local = known
            return self._price(model, model_asked, expected, is_local=is_local) or 0.0
        own = [_own_price(price, expected) for price in self._own.values()]
        return max([self._price(model_asked, model_asked, expected, is_local=False) or 0.0, *own])

    def saved_usd(self, outcome: Outcome, model_asked: str) -> float | None:
        """Return the dollars that the response cache saved; None where it spared nothing, or the model has no price."""
        if outcome.model is None or outcome.spared is None:
            return None
        spared = outcome.spared
        return self._price(outcome.model, model_asked, spared.usage, is_local=spared.is_local)

    def _price(self, model: str, model_asked: str, usage: Usage, *, is_local: bool) -> float | None:
        """Return what ``usage`` costs.

        The operator's table may also name a model by the requested name: so a local model costs what ``gpt-4o`` would. Public prices
        are what a provider charges, so they do not hold for what an engine of this machine computed.
        """
        price = self._own.get(model) or self._own.get(model_asked)
        if price is not None:
            return _own_price(price, usage)
        if is_local or self._provider is None or model in self._unpriced:
            return None
        public = _public_price(model, usage, self._provider)
        if public is None:
            if len(self._unpriced) >= _MAX_REMEMBERED:
                self._unpriced.clear()
            self._unpriced.add(model)
        return public


def _cached(usage: Usage) -> int:
    """Return how much of the prompt has the price of cached tokens: at most all of it, whatever an upstream reports."""
    return min(usage.cached_tokens, usage.prompt_tokens)


def _own_price(price: ModelPrice, usage: Usage) -> float:
    cached_rate = price.input if price.cached_input is None else price.cached_input
    cached = _cached(usage)
    fresh = usage.prompt_tokens - cached
    micro_usd = fresh * price.input + cached * cached_rate + usage.completion_tokens * price.output
    return micro_usd / 1_000_000


def _public_price(model: str, usage: Usage, provider: str) -> float | None:
    # A fifth of a second to import, and needed only where models have public prices.
    import genai_prices  # noqa: PLC0415

    tokens = genai_prices.Usage(
        input_tokens=usage.prompt_tokens,
        cache_read_tokens=_cached(usage),
        output_tokens=usage.completion_tokens,
    )
    try:
        return float(genai_prices.calc_price(tokens, model, provider_id=provider).total_price)
    except LookupError:
        return None
