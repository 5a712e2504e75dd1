"""Which model for a task, by a declared policy: the cheapest that can do it.

A model can do a task if its context holds the prompt and the answer, it may write an answer that long, it has the
abilities needed, and its level is the one that the kind of task asks for. What a model that reasons spends on thinking
cannot be told beforehand: ``Task.reasoning_tokens`` is what is reckoned with. Give cards of your own for other models;
which model is good enough for your task is measured, not looked up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, Protocol, overload

from antiphon.toolkit.costs.prices import Price, PriceTable
from antiphon.toolkit.errors import NoModelError
from antiphon.toolkit.usage import Usage

Level = Literal["small", "medium", "large"]
Kind = Literal["classification", "extraction", "chat", "long document", "coding", "complex", "embedding"]

_LEVELS: dict[Level, int] = {"small": 1, "medium": 2, "large": 3}
_LEAST: dict[Kind, Level] = {
    "classification": "small",
    "extraction": "small",
    "embedding": "small",
    "chat": "medium",
    "long document": "medium",
    "coding": "large",
    "complex": "large",
}


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a model can do. ``price`` None: the known one of OpenAI's model of that name.

    ``level`` is where its maker places it: for simple and frequent tasks, for most, or for hard ones. A model that
    ``embeds`` does nothing else, and ``answer_tokens`` is then 0.
    """

    name: str
    context_tokens: int
    answer_tokens: int
    has_tools: bool = True
    has_structured_output: bool = True
    has_images: bool = True
    price: Price | None = None
    level: Level = "medium"
    reasons: bool = False
    embeds: bool = False


# Source: OpenAI's model pages, read on 2026-11-28; prices come with genai-prices.
OPENAI_CARDS = (
    ModelCard("gpt-4o-mini", 128_000, 16_384, level="small"),
    ModelCard("gpt-4.1-nano", 1_047_576, 32_768, level="small"),
    ModelCard("gpt-5-nano", 400_000, 128_000, level="small", reasons=True),
    ModelCard("gpt-5.4-nano", 400_000, 128_000, level="small", reasons=True),
    ModelCard("gpt-5.6-luna", 1_050_000, 128_000, level="small", reasons=True),
    ModelCard("gpt-6-luna", 1_050_000, 128_000, level="small", reasons=True),
    ModelCard("gpt-4o", 128_000, 16_384),
    ModelCard("gpt-4.1", 1_047_576, 32_768),
    ModelCard("gpt-4.1-mini", 1_047_576, 32_768),
    ModelCard("gpt-5-mini", 400_000, 128_000, reasons=True),
    ModelCard("gpt-5.4-mini", 400_000, 128_000, reasons=True),
    ModelCard("gpt-5.6-terra", 1_050_000, 128_000, reasons=True),
    ModelCard("gpt-6.1-terra", 1_050_000, 128_000, reasons=True),
    ModelCard("gpt-5", 400_000, 128_000, level="large", reasons=True),
    ModelCard("gpt-5.4", 1_050_000, 128_000, level="large", reasons=True),
    ModelCard("gpt-5.6-sol", 1_050_000, 128_000, level="large", reasons=True),
    ModelCard("gpt-6.1-sol", 1_050_000, 128_000, level="large", reasons=True),
    ModelCard("gpt-6-astra", 1_050_000, 128_000, level="large", reasons=True),
    ModelCard("text-embedding-3-small", 8_191, 0, level="small", embeds=True),
    ModelCard("text-embedding-3-large", 8_191, 0, level="large", embeds=True),
)


@dataclass(frozen=True, slots=True)
class Task:
    """What a call needs; tokens of the prompt and, at most, of the answer.

    ``kind`` None: any model that has the abilities will do. ``reasoning_tokens`` are reckoned with for a model that
    reasons, in addition to the answer; effort and question decide how many there really are.
    """

    prompt_tokens: int
    answer_tokens: int = 1_000
    tools: bool = False
    structured_output: bool = False
    images: bool = False
    max_usd: Decimal | float | str | None = None
    kind: Kind | None = None
    reasoning_tokens: int = 2_000

    def __post_init__(self) -> None:
        if self.prompt_tokens < 0 or self.answer_tokens < 1 or self.reasoning_tokens < 0:
            raise ValueError(
                f"a task needs prompt_tokens >= 0, answer_tokens >= 1 and reasoning_tokens >= 0, got {self!r}"
            )

    def usage(self, card: ModelCard) -> Usage:
        """Return the tokens that the task takes of the model of ``card``."""
        if card.embeds:
            return Usage(self.prompt_tokens)
        return Usage(self.prompt_tokens, self.answer_tokens + (self.reasoning_tokens if card.reasons else 0))


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


@dataclass(frozen=True, slots=True)
class MeasuredModel:
    """A model with the mean of its scores (0 to 1) and what its answers cost in dollars, None if that is not known."""

    name: str
    score: float
    usd: Decimal | None


class Measurement(Protocol):
    """The result of an evaluation."""

    def measured(self) -> Sequence[MeasuredModel]: ...


@overload
def choose_model(task: Task, candidates: Sequence[ModelCard] = OPENAI_CARDS) -> ModelChoice: ...
@overload
def choose_model(task: Measurement, *, at_least: float) -> ModelChoice: ...
def choose_model(
    task: Task | Measurement, candidates: Sequence[ModelCard] = OPENAI_CARDS, *, at_least: float | None = None
) -> ModelChoice:
    """Return the cheapest of ``candidates`` that can do ``task``; among equals the first.

    With the result of an evaluation in place of a task: the cheapest of its models whose mean is ``at_least`` that (0 to 1).
    Raises NoModelError, with the reason for each, if none can.
    """
    if not isinstance(task, Task):
        return _good_enough(task.measured(), 0.0 if at_least is None else at_least)
    if at_least is not None:
        raise TypeError("at_least= is for the result of an evaluation; a Task has no scores")
    able: list[tuple[Decimal, str]] = []
    others: list[tuple[str, str]] = []
    for card in candidates:
        usd = _cost(card, task.usage(card))
        why = _obstacle(card, task, usd)
        if why is None and usd is not None:
            able.append((usd, card.name))
        else:
            others.append((card.name, why or ""))
    return _cheapest(able, others, "No model can do this task", "send less, or give candidates=[ModelCard(...)]")


def _good_enough(models: Sequence[MeasuredModel], at_least: float) -> ModelChoice:
    able: list[tuple[Decimal, str]] = []
    others: list[tuple[str, str]] = []
    for model in models:
        if not model.score >= at_least:
            others.append((model.name, f"its score is {model.score:.3f}"))
        elif model.usd is None:
            others.append((model.name, "its price is unknown"))
        else:
            able.append((model.usd, model.name))
    is_good = any(model.score >= at_least for model in models)
    step = "give the run prices=PriceTable({...})" if is_good else "accept less, or measure other models"
    failure = f"No model of a known price scores {at_least:g}" if is_good else f"No model scores {at_least:g}"
    return _cheapest(able, others, failure, step)


def _cheapest(able: list[tuple[Decimal, str]], others: list[tuple[str, str]], failure: str, hint: str) -> ModelChoice:
    if not able:
        reasons = "; ".join(f"{name}: {why}" for name, why in others) or "there are no candidates"
        raise NoModelError(f"{failure} ({reasons})", hint=hint)
    able.sort(key=lambda pair: pair[0])
    (usd, name), *dearer = able
    others.extend((other, f"costs {more:.6f} dollars") for more, other in dearer)
    return ModelChoice(name, usd, tuple(others))


def _cost(card: ModelCard, usage: Usage) -> Decimal | None:
    return card.price.cost(usage) if card.price is not None else PriceTable().cost(usage, card.name)


def _obstacle(card: ModelCard, task: Task, usd: Decimal | None) -> str | None:
    usage = task.usage(card)
    wants_vectors = task.kind == "embedding"
    least: Level = "small" if task.kind is None else _LEAST[task.kind]
    missing = (
        (wants_vectors and not card.embeds, "it makes no embeddings"),
        (card.embeds and not wants_vectors, "it makes embeddings only"),
        (_LEVELS[card.level] < _LEVELS[least], f"it is {card.level}, and {task.kind} asks for a {least} model"),
        (
            usage.total_tokens > card.context_tokens,
            f"its context is {card.context_tokens} tokens and {usage.total_tokens} are needed",
        ),
        (usage.completion_tokens > card.answer_tokens, f"it answers with at most {card.answer_tokens} tokens"),
        (task.tools and not card.has_tools, "it has no tools"),
        (task.structured_output and not card.has_structured_output, "it has no structured output"),
        (task.images and not card.has_images, "it takes no images"),
        (usd is None, "its price is unknown"),
        (usd is not None and task.max_usd is not None and usd > Decimal(str(task.max_usd)), f"it costs {usd} dollars"),
    )
    return next((why for is_missing, why in missing if is_missing), None)
