"""Keeping a conversation within a budget of tokens.

Old turns are left out whole, oldest first, except pinned ones. Trimming works in steps: once over the budget, turns go
until those that are left fill only ``keep`` of the room they may take. Between two steps each request begins with the whole of the one before it, so that the
server's prompt cache keeps hitting; trimming to the brim at each turn would change the beginning every time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from antiphon.toolkit.chat.history import History, Message, Turn
from antiphon.toolkit.errors import HistoryError
from antiphon.toolkit.tokens.count import Quality, TokenCount
from antiphon.toolkit.tokens.text_estimate import message_parts, message_texts

Count = Callable[[Sequence[Message]], Awaitable[TokenCount]]

# No tokenizer makes more tokens of a text than it has bytes; around a message templates put fewer than this.
_MOST_PER_MESSAGE = 24


@dataclass(frozen=True, slots=True)
class HistoryPolicy:
    """How a chat keeps within its model's context.

    ``max_tokens`` for a prompt; None is the context less ``answer_tokens`` (None: ``max_completion_tokens`` of the
    request, else a quarter of the context, at most 4096). A trim leaves at most ``keep`` of the room for turns filled.
    ``summarise`` has the model sum up what is left out, in at most ``summary_tokens``, and sends that with the system prompt.
    """

    max_tokens: int | None = None
    answer_tokens: int | None = None
    keep: float = 0.6
    summarise: bool = False
    summary_tokens: int = 256

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep must be within 0..1, got {self.keep!r}")
        for name in ("max_tokens", "answer_tokens", "summary_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be >= 1, got {value!r}")

    def budget(self, context: int | None, max_completion_tokens: int | None) -> int | None:
        """Return the most tokens that a prompt may have, or None if neither the user nor the server says."""
        if self.max_tokens is not None:
            return self.max_tokens
        if context is None:
            return None
        answer = self.answer_tokens or max_completion_tokens or min(4096, context // 4)
        if answer >= context:
            raise HistoryError(
                f"The model's context is {context} tokens, and {answer} are set aside for the answer",
                hint="lower max_completion_tokens or HistoryPolicy(answer_tokens=...)",
            )
        return context - answer


@dataclass(frozen=True, slots=True)
class TrimReport:
    """What a trim left out, and the tokens of the prompt before and after; ``summary`` replaces it."""

    dropped: tuple[Turn, ...]
    tokens_before: int
    tokens_after: int
    budget: int
    quality: Quality
    summary: str | None = None

    def __str__(self) -> str:
        return (
            f"{len(self.dropped)} turns left out: {self.tokens_before} tokens before, {self.tokens_after} after, "
            f"{self.budget} allowed ({self.quality})"
        )


async def trim(
    history: History, pending: Sequence[Message], *, budget: int, keep: float, count: Count, most_beside: int = 0
) -> tuple[History, TrimReport | None]:
    """Return ``history`` such that it fits ``budget`` together with ``pending``, and a report if that took leaving out.

    ``count`` counts whole prompts; ``most_beside`` is a bound on the tokens that it counts for tools and schema.

    Raises HistoryError if the system prompt, the pinned turns and ``pending`` alone do not fit.
    """
    messages = history.messages(pending)
    if most_tokens(messages) + most_beside <= budget:
        return history, None
    before = await count(messages)
    if before.tokens <= budget:
        return history, None
    least = await count(history.messages(pending, start=len(history.turns)))
    if least.tokens > budget:
        raise HistoryError(
            f"The prompt does not fit: {least.tokens} tokens remain when all that may be left out is, {budget} are allowed",
            hint="send a shorter message or fewer tools, unpin turns, shorten the system prompt, or use a longer context",
        )
    target = least.tokens + int((budget - least.tokens) * keep)
    start, after = await _first_fitting_start(history, pending, target, least, count)
    dropped = tuple(turn for turn in history.turns[history.start : start] if not turn.is_pinned)
    report = TrimReport(dropped, before.tokens, after.tokens, budget, (before + after).quality)
    return replace(history, start=start), report


async def _first_fitting_start(
    history: History, pending: Sequence[Message], target: int, least: TokenCount, count: Count
) -> tuple[int, TokenCount]:
    # Leaving out more never makes the prompt longer, so the first start that fits is found by halving.
    low, high = history.start + 1, len(history.turns)
    best = high, least
    while low < high:
        middle = (low + high) // 2
        counted = await count(history.messages(pending, start=middle))
        if counted.tokens <= target:
            high, best = middle, (middle, counted)
        else:
            low = middle + 1
    return best


def most_tokens(messages: Sequence[Message]) -> int:
    """Return a bound on the tokens of a prompt: cheap, and usually enough to know that nothing need be counted."""
    # An image has no such bound.
    most = 0
    for message in messages:
        if any(part.get("type", "text") != "text" for part in message_parts(message)):
            return 1 << 62
        most += _MOST_PER_MESSAGE + sum(len(text.encode()) for text in message_texts(message))
    return most
