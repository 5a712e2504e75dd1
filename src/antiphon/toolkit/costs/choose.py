"""Which model for a task, by a declared policy: the cheapest that can do it.

A model can do a task if its context holds the prompt and the answer, it may write an answer that long, and it has the
abilities needed. The table below has OpenAI's chat models that do not reason: what a reasoning model spends on
thinking cannot be told beforehand, so its cost cannot be compared. Give cards of your own for other models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from antiphon.toolkit.costs.prices import Price, PriceTable
from antiphon.toolkit.errors import NoModelError
from antiphon.toolkit.usage import Usage


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a model can do. ``price`` None: the known one of OpenAI's model of that name."""

    name: str
    context_tokens: int
    answer_tokens: int
    has_tools: bool = True
    has_structured_output: bool = True
    has_images: bool = True
    price: Price | None = None


# Source: OpenAI's model pages; prices come with genai-prices.
OPENAI_CARDS = (
    ModelCard("gpt-3.5-turbo", 16_385, 4_096, has_structured_output=False, has_images=False),
    ModelCard("gpt-4o", 128_000, 16_384),
    ModelCard("gpt-4o-mini", 128_000, 16_384),
    ModelCard("gpt-4.1", 1_047_576, 32_768),
    ModelCard("gpt-4.1-mini", 1_047_576, 32_768),
    ModelCard("gpt-4.1-nano", 1_047_576, 32_768),
)


@dataclass(frozen=True, slots=True)
class Task:
    """What a call needs; tokens of the prompt and, at most, of the answer."""

    prompt_tokens: int
    answer_tokens: int = 1_000
    tools: bool = False
    structured_output: bool = False
    images: bool = False
    max_usd: Decimal | float | str | None = None

    def __post_init__(self) -> None:
        if self.prompt_tokens < 0 or self.answer_tokens < 1:
            raise ValueError(f"a task needs prompt_tokens >= 0 and answer_tokens >= 1, got {self!r}")


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """The model chosen, the most that the call costs (dollars), and why each other one was not."""

    model: str
    usd: Decimal
    others: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        lines = [
            f"{self.model}: at most {self.usd:.6f} dollars",
            *(f"  not {name}: {why}" for name, why in self.others),
        ]
        return "\n".join(lines)


def choose_model(task: Task, candidates: Sequence[ModelCard] = OPENAI_CARDS) -> ModelChoice:
    """Return the cheapest of ``candidates`` that can do ``task``; among equals the first.

    Raises NoModelError, with the reason for each, if none can.
    """
    able: list[tuple[Decimal, str]] = []
    others: list[tuple[str, str]] = []
    most = Usage(task.prompt_tokens, task.answer_tokens)
    for card in candidates:
        usd = _cost(card, most)
        why = _obstacle(card, task, usd)
        if why is None and usd is not None:
            able.append((usd, card.name))
        else:
            others.append((card.name, why or ""))
    if not able:
        reasons = "; ".join(f"{name}: {why}" for name, why in others) or "there are no candidates"
        raise NoModelError(
            f"No model can do this task ({reasons})", hint="send less, or give candidates=[ModelCard(...)]"
        )
    able.sort(key=lambda pair: pair[0])
    (usd, name), *dearer = able
    others.extend((other, f"costs {more:.6f} dollars") for more, other in dearer)
    return ModelChoice(name, usd, tuple(others))


def _cost(card: ModelCard, usage: Usage) -> Decimal | None:
    return card.price.cost(usage) if card.price is not None else PriceTable().cost(usage, card.name)


def _obstacle(card: ModelCard, task: Task, usd: Decimal | None) -> str | None:
    needed = task.prompt_tokens + task.answer_tokens
    missing = (
        (needed > card.context_tokens, f"its context is {card.context_tokens} tokens and {needed} are needed"),
        (task.answer_tokens > card.answer_tokens, f"it answers with at most {card.answer_tokens} tokens"),
        (task.tools and not card.has_tools, "it has no tools"),
        (task.structured_output and not card.has_structured_output, "it has no structured output"),
        (task.images and not card.has_images, "it takes no images"),
        (usd is None, "its price is unknown"),
        (usd is not None and task.max_usd is not None and usd > Decimal(str(task.max_usd)), f"it costs {usd} dollars"),
    )
    return next((why for is_missing, why in missing if is_missing), None)
