"""What a chat gives back: an answer, how it came about, and what happened on the way."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from typing_extensions import TypeAliasType

from antiphon.toolkit.calls.call_events import CallEvent
from antiphon.toolkit.chat.trim import TrimReport
from antiphon.toolkit.messages import reasoning_text
from antiphon.toolkit.record import Attempt, CallRecord, Timing, ToolCall, total_cost, total_usage
from antiphon.toolkit.tools.tool_loop import ToolResult
from antiphon.toolkit.usage import Usage

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletion
    from openai.types.chat.chat_completion import Choice, ChoiceLogprobs
    from openai.types.responses import Response

T_co = TypeVar("T_co", covariant=True)


class TruncatedAnswerWarning(UserWarning):
    """An answer was cut at the token limit (``finish_reason == "length"``)."""


class ParameterLeftOutWarning(UserWarning):
    """The model refuses a parameter of the request, and answered without it; ``reply.left_out`` names it."""


@dataclass(frozen=True, slots=True)
class Reply(Generic[T_co]):
    """The answer to one message. ``str(reply)`` is its text.

    ``parsed`` is the value asked for with ``parse`` or ``extract``, else None. ``records`` has one entry per call to a
    model, in order (several when tools ran or an answer was asked for again); ``usage`` and ``cost`` are their sums,
    None where a part is not known. ``trim`` says what was left out of the history, None if nothing was. ``completion`` is
    the last answer as the client gave it, and ``response`` that of the Responses API, None where it was not used.
    """

    text: str
    parsed: T_co
    refusal: str | None
    records: tuple[CallRecord, ...]
    tool_results: tuple[ToolResult, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    trim: TrimReport | None = None
    completion: ChatCompletion | None = None
    response: Response | None = None

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
    def choices(self) -> Sequence[Choice]:
        """All choices of the last answer (``n=`` of the request); ``text`` is the first one's."""
        return () if self.completion is None else self.completion.choices

    @property
    def logprobs(self) -> ChoiceLogprobs | None:
        """The log probabilities of the first choice's tokens, where they were asked for."""
        return self.choices[0].logprobs if self.choices else None

    @property
    def reasoning(self) -> str | None:
        """What the model thought before it answered, or the summary of it; None where the server does not tell."""
        return reasoning_text(self.choices[0].message.to_dict(warnings=False)) if self.choices else None

    @property
    def left_out(self) -> tuple[str, ...]:
        """The parameters that were asked for and not sent, since the model refuses them."""
        return tuple(dict.fromkeys(name for record in self.records for name in record.left_out))

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


def warned(reply: Reply[T_co], *, step: str = "raise max_completion_tokens, or chat.continue_()") -> Reply[T_co]:
    """Return ``reply``; warn, at the line of the caller's caller, if it was cut or parameters were left out.

    ``step`` is what to do about one that was cut.
    """
    if reply.is_truncated:
        warnings.warn(f"The answer was cut at the token limit: {step}", TruncatedAnswerWarning, stacklevel=3)
    return told_left_out(reply, stacklevel=4)


def told_left_out(reply: Reply[T_co], *, stacklevel: int = 3) -> Reply[T_co]:
    """Return ``reply``; warn if parameters were left out."""
    if reply.left_out:
        text = f"{reply.model!r} takes no {', '.join(reply.left_out)}, and was asked without"
        warnings.warn(text, ParameterLeftOutWarning, stacklevel=stacklevel)
    return reply


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the answer's text."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """A piece of what the model thinks before it answers."""

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


@dataclass(frozen=True, slots=True)
class HistoryTrimmed:
    """Old turns were left out of what is sent, so that it fits."""

    report: TrimReport


@dataclass(frozen=True, slots=True)
class Replied:
    """The message has its answer, which is about to be added to the conversation."""

    reply: Reply[Any]


Event = TextDelta | ReasoningDelta | ToolStarted | ToolFinished | AnswerRejected
ChatEvent = TypeAliasType("ChatEvent", Event | CallEvent | HistoryTrimmed | Replied)
"""What ``on_event`` is called with."""
