"""What is known about one call after it ended: the row that replies, reports and budgets are made of."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from antiphon.toolkit.usage import Usage


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds. ``ttft_s`` (time to first token) is None unless the answer was streamed."""

    total_s: float
    ttft_s: float | None = None

    def tokens_per_s(self, completion_tokens: int) -> float | None:
        """Return the speed of generation: after the first token where that is known, else over the whole call."""
        if self.ttft_s is None:
            return completion_tokens / self.total_s if self.total_s > 0 and completion_tokens else None
        generating = self.total_s - self.ttft_s
        return (completion_tokens - 1) / generating if generating > 0 and completion_tokens > 1 else None


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One call to a model.

    ``model`` was asked for and ``answered_by`` is what the response names. ``usage`` and ``cost`` (dollars) are None
    where they are not known. ``from_cache``: answered from the response cache; ``usage`` is then what it had taken, and
    ``cost`` 0. ``failed_over`` names the models that failed before this one, with their errors. ``left_out`` names the
    parameters that were asked for and not sent, since the model refuses them.
    """

    model: str
    answered_by: str
    usage: Usage | None
    cost: Decimal | None
    timing: Timing
    finish_reason: str | None
    request_id: str | None
    num_retries: int = 0
    from_cache: bool = False
    saved_by_cache: Decimal | None = None
    saved_by_prompt_cache: Decimal | None = None
    failed_over: tuple[tuple[str, str], ...] = ()
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Attempt:
    """One answer to a request for structured output; ``error`` is why it was not accepted, None if it was."""

    text: str
    usage: Usage | None
    error: str | None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model asks for; ``arguments`` is its JSON, not validated, or the text for a custom tool."""

    id: str
    name: str
    arguments: str
    is_custom: bool = False

    def as_message(self) -> dict[str, Any]:
        if self.is_custom:
            return {"id": self.id, "type": "custom", "custom": {"name": self.name, "input": self.arguments}}
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


def total_cost(records: tuple[CallRecord, ...]) -> Decimal | None:
    """Return the dollars of all ``records``, or None if one of them is not known."""
    costs = [record.cost for record in records]
    known = [cost for cost in costs if cost is not None]
    return sum(known, Decimal(0)) if len(known) == len(costs) else None


def total_usage(records: tuple[CallRecord, ...]) -> Usage | None:
    """Return the tokens of all ``records``, or None if a server did not tell."""
    usages = [record.usage for record in records]
    known = [usage for usage in usages if usage is not None]
    return sum(known, Usage(num_calls=0)) if known and len(known) == len(usages) else None
