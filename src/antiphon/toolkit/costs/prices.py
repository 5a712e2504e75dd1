"""What tokens cost, in dollars.

Prices of known models at known endpoints come from the ``genai-prices`` package, which carries its table (no network).
Others are unknown, and unknown is None, never 0: a model called ``gpt-4o-mini`` on your own machine is not OpenAI's.
State prices of your own with ``PriceTable``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from antiphon.toolkit.clients import Endpoint

if TYPE_CHECKING:
    from antiphon.toolkit.usage import Usage

_MILLION = Decimal(1_000_000)
OPENAI = Endpoint("https://api.openai.com/v1")


@dataclass(frozen=True, slots=True)
class Price:
    """Dollars per million tokens.

    ``cached`` and ``cache_write`` are for prompt tokens read from and written to the server's prompt cache; None charges
    them like the others. ``batch`` is the share of all prices that a batch costs.
    """

    prompt: Decimal | float | str
    completion: Decimal | float | str = 0
    cached: Decimal | float | str | None = None
    cache_write: Decimal | float | str | None = None
    batch: Decimal | float | str = "0.5"

    def __post_init__(self) -> None:
        for name in ("prompt", "completion", "cached", "cache_write", "batch"):
            value = getattr(self, name)
            if value is not None and not _decimal(value) >= 0:
                raise ValueError(f"{name} must be a price >= 0 in dollars per million tokens, got {value!r}")

    def cost(self, usage: Usage, *, batch: bool = False) -> Decimal:
        """Return the dollars for ``usage``, at the price of a batch if asked for."""
        cached, written = usage.cached_tokens or 0, usage.cache_write_tokens or 0
        parts = (
            (usage.prompt_tokens - cached - written, self.prompt),
            (cached, self.prompt if self.cached is None else self.cached),
            (written, self.prompt if self.cache_write is None else self.cache_write),
            (usage.completion_tokens, self.completion),
        )
        dollars = sum((_decimal(price) * count for count, price in parts), Decimal(0)) / _MILLION
        return dollars * _decimal(self.batch) if batch else dollars


@dataclass(frozen=True, slots=True)
class PriceTable:
    """Your own prices by model name; they go before the known ones, at every endpoint."""

    prices: Mapping[str, Price] = field(default_factory=dict[str, Price])

    def cost(
        self,
        usage: Usage,
        model: str,
        endpoint: Endpoint = OPENAI,
        *,
        batch: bool = False,
        service_tier: str | None = None,
    ) -> Decimal | None:
        """Return dollars for ``usage`` of ``model``, or None if its price there is unknown.

        ``service_tier`` is the one that processed the request ("flex", "priority"); your own prices know none.
        ``batch`` takes the price of a batch: OpenAI's, or half of your own unless your price says otherwise.
        """
        if model in self.prices:
            return self.prices[model].cost(usage, batch=batch)
        return _known_cost(usage, model, endpoint, batch=batch, service_tier=service_tier)


def cost_of(usage: Usage, model: str, *, endpoint: Endpoint = OPENAI, batch: bool = False) -> Decimal | None:
    """Return the dollars that ``usage`` of ``model`` costs at ``endpoint`` (OpenAI's own API), or None if unknown."""
    return PriceTable().cost(usage, model, endpoint, batch=batch)


def known_model(model: str, endpoint: Endpoint = OPENAI) -> Any | None:
    """Return ``genai_prices``' entry for ``model`` (prices, context window), or None."""
    from genai_prices.data_snapshot import get_snapshot  # noqa: PLC0415 - 0.3 s to import, and not always needed

    try:
        return get_snapshot().find_provider_model(model, None, None, endpoint.base_url)[1]
    except LookupError:
        return None


def _known_cost(
    usage: Usage, model: str, endpoint: Endpoint, *, batch: bool, service_tier: str | None
) -> Decimal | None:
    import genai_prices  # noqa: PLC0415 - 0.3 s to import, and not always needed
    from genai_prices.types import PriceContext  # noqa: PLC0415

    counted = genai_prices.Usage(
        input_tokens=usage.prompt_tokens,
        cache_read_tokens=usage.cached_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        output_tokens=usage.completion_tokens,
    )
    context: PriceContext = {}
    if batch:
        context["processing"] = "batch"
    elif service_tier is not None:
        context["service_tier"] = service_tier
    try:
        return genai_prices.calc_price(
            counted, model, provider_api_url=endpoint.base_url, price_context=context
        ).total_price
    except LookupError:
        return None


def _decimal(value: Decimal | float | str) -> Decimal:
    # By way of text, so that 0.15 is 0.15 and not its nearest binary fraction.
    return value if isinstance(value, Decimal) else Decimal(str(value))
