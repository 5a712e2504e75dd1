"""What a chat gives back: an answer, how it came about, and what happened on the way."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from decimal import Decimal
from typing import Generic, TypeVar

from antiphon.toolkit.chat.trim import TrimReport
from antiphon.toolkit.record import Attempt, CallRecord, Timing, total_cost, total_usage
from antiphon.toolkit.tools.tool_loop import ToolCall, ToolResult
from antiphon.toolkit.usage import Usage

T_co = TypeVar("T_co", covariant=True)


class TruncatedAnswerWarning(UserWarning):
    """An answer was cut at the token limit (``finish_reason == "length"``)."""


@dataclass(frozen=True, slots=True)
class Reply(Generic[T_co]):
    """The answer to one message. ``str(reply)`` is its text.

    ``parsed`` is the value asked for with ``parse`` or ``extract``, else None. ``records`` has one entry per call to a
    model, in order (several when tools ran or an answer was asked for again); ``usage`` and ``cost`` are their sums,
    None where a part is not known. ``trim`` says what was left out of the history, None if nothing was.
    """

    text: str
    parsed: T_co
    refusal: str | None
    records: tuple[CallRecord, ...]
    tool_results: tuple[ToolResult, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    trim: TrimReport | None = None

    def __str__(self) -> str:
        return self.text

    @property
    def model(self) -> str:
        """The model that answered, as the response names it."""
        return self.records[-1].answered_by

    @property
    def finish_reason(self) -> str | None:
        return self.records[-1].finish_reason

    @property
    def is_truncated(self) -> bool:
        return self.finish_reason == "length"

    @property
    def request_id(self) -> str | None:
        return self.records[-1].request_id

    @property
    def usage(self) -> Usage | None:
        return total_usage(self.records)

    @property
    def cost(self) -> Decimal | None:
        """Dollars, or None if the price of a call is unknown."""
        return total_cost(self.records)

    @property
    def timing(self) -> Timing:
        """Seconds of the last call to the model."""
        return self.records[-1].timing

    @property
    def tokens_per_s(self) -> float | None:
        last = self.records[-1]
        return None if last.usage is None else last.timing.tokens_per_s(last.usage.completion_tokens)


def warned(reply: Reply[T_co]) -> Reply[T_co]:
    """Return ``reply``; if it was cut, warn at the line of the caller's caller."""
    if reply.is_truncated:
        text = "The answer was cut at the token limit: raise max_completion_tokens, or chat.continue_()"
        warnings.warn(text, TruncatedAnswerWarning, stacklevel=3)
    return reply


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the answer's text."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolStarted:
    """The model asks for a call, which is about to run."""

    call: ToolCall


@dataclass(frozen=True, slots=True)
class ToolFinished:
    """A call ended; ``result.content`` is the text that the model gets."""

    result: ToolResult


@dataclass(frozen=True, slots=True)
class AnswerRejected:
    """The text so far did not validate and is asked for again; what follows replaces it."""

    attempt: Attempt


Event = TextDelta | ToolStarted | ToolFinished | AnswerRejected
