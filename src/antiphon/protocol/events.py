"""The one stream of events that every backend yields and every endpoint renders.

Order per request: one ``Started``; then for each choice its deltas and exactly one ``ChoiceFinished``,
choices interleaved as they come; then one ``Completed``. A failure is an exception out of the iterator
(``ApiError``), at any point.
"""

from typing import Literal

import msgspec

FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "function_call"]


class TopLogprob(msgspec.Struct, frozen=True):
    """One alternative at a position; ``logprob`` is natural, ``bytes`` the token's raw UTF-8 (may be a fragment)."""

    token: str
    logprob: float
    bytes: tuple[int, ...]


class TokenLogprob(msgspec.Struct, frozen=True):
    """A token with its alternatives, most probable first; from the model's unmodified logits.

    ``logprob`` is None for the first token of an echoed prompt, which nothing precedes, and for no other.
    """

    token: str
    logprob: float | None
    bytes: tuple[int, ...]
    top_logprobs: tuple[TopLogprob, ...] = ()


class Usage(msgspec.Struct, frozen=True):
    """Token counts of one request, all choices together. ``cached_tokens`` is the share of the prompt not computed again."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


CacheStatus = Literal["miss", "hit", "joined"]
"""What the response cache did: computed and stored, answered from the store, or shared an identical request in flight."""


class Meter(msgspec.Struct):
    """What a request has used so far. The backend replaces ``usage`` as it works, so an interrupted request is charged correctly.

    The only mutable value in this module: the backend writes it, and the ledger reads it when the request ends.
    ``compute_s``: seconds of an engine on this machine, None for any other backend.
    """

    usage: Usage = Usage()
    compute_s: float | None = None


class Spared(msgspec.Struct, frozen=True):
    """What the response cache spared a request: tokens that it would else have been charged.

    ``is_local``: an engine in this machine had computed them.
    """

    usage: Usage
    is_local: bool = False


class Started(msgspec.Struct, frozen=True):
    """The backend has begun; ``model`` names what really answers, ``meter`` follows what it costs from here on.

    ``cache`` is None where no response cache was asked; ``spared`` is the meter of the answer that it gives again, which still
    runs if it is in flight, and None if it was not measured. ``system_fingerprint`` changes when the weights or the settings
    that they run with do.
    """

    model: str
    prompt_tokens: int
    cached_tokens: int = 0
    cache: CacheStatus | None = None
    meter: Meter | None = None
    system_fingerprint: str | None = None
    spared: Meter | None = None


class TextDelta(msgspec.Struct, frozen=True):
    """More of the visible answer. Whole characters only; ``logprobs`` when asked for.

    A text completion with ``echo`` begins each choice with deltas of its prompt, and their logprobs when asked for.
    """

    index: int
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


class ReasoningDelta(msgspec.Struct, frozen=True):
    """More of the thinking that precedes an answer."""

    index: int
    text: str


class RefusalDelta(msgspec.Struct, frozen=True):
    """More of a refusal."""

    index: int
    text: str


class ToolCallStarted(msgspec.Struct, frozen=True):
    """Call number ``call`` of choice ``index`` begins; its arguments follow. ``kind`` is the tool's type."""

    index: int
    call: int
    id: str
    name: str
    kind: Literal["function", "custom"] = "function"


class ToolCallDelta(msgspec.Struct, frozen=True):
    """More of the call's arguments (JSON text, or a custom tool's input)."""

    index: int
    call: int
    arguments: str


class ChoiceFinished(msgspec.Struct, frozen=True):
    """Nothing more for this choice."""

    index: int
    reason: FinishReason


class Completed(msgspec.Struct, frozen=True):
    """The end of the answer; ``usage`` is what the request is charged for.

    ``is_estimate``: another API did not report its usage, and these are estimates.
    """

    usage: Usage
    is_estimate: bool = False


Event = (
    Started | TextDelta | ReasoningDelta | RefusalDelta | ToolCallStarted | ToolCallDelta | ChoiceFinished | Completed
)
