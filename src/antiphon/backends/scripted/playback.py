"""One scripted reply as the events of a choice: text to tokens, within the request's own limits."""

import hashlib
from collections.abc import Iterator

import msgspec

from antiphon.backends.scripted.script import Reply, ScriptedCall, tokens
from antiphon.protocol.events import (
    Event,
    FinishReason,
    ReasoningDelta,
    RefusalDelta,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    ToolCallStarted,
    TopLogprob,
)


class ReplyLimits(msgspec.Struct, frozen=True):
    """What a request asks of every choice. ``top_logprobs`` None: no log-probabilities."""

    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None


class PlayedChoice(msgspec.Struct, frozen=True):
    """A choice's events, one token each, and how it ends."""

    events: tuple[Event, ...]
    reason: FinishReason
    reasoning_tokens: int


def play_reply(reply: Reply, text: str, index: int, limits: ReplyLimits) -> PlayedChoice:
    """Turn the reply into choice ``index``. Stop strings and ``max_tokens`` hold here as with any model."""
    text, stopped = _until_stop(text, limits.stop)
    events = list(_events(reply, text, index, limits))
    reason = reply.finish_reason or ("tool_calls" if reply.tool_calls and not stopped else "stop")
    if limits.max_tokens is not None and len(events) > limits.max_tokens:
        events = events[: limits.max_tokens]
        reason = "length"
    return PlayedChoice(tuple(events), reason, sum(isinstance(event, ReasoningDelta) for event in events))


def _events(reply: Reply, text: str, index: int, limits: ReplyLimits) -> Iterator[Event]:
    for token in tokens(reply.reasoning):
        yield ReasoningDelta(index, token)
    for token in tokens(reply.refusal):
        yield RefusalDelta(index, token)
    for token in tokens(text):
        yield TextDelta(index, token, _logprobs(token, limits.top_logprobs))
    for number, call in enumerate(reply.tool_calls):
        yield ToolCallStarted(index, number, call.id or _call_id(call, index, number), call.name)
        for token in tokens(call.text):
            yield ToolCallDelta(index, number, token)


def _until_stop(text: str, stop: tuple[str, ...]) -> tuple[str, bool]:
    places = [place for place in (text.find(string) for string in stop) if place >= 0]
    return (text[: min(places)], True) if places else (text, False)


def _logprobs(token: str, top: int | None) -> tuple[TokenLogprob, ...]:
    """A script is deterministic: its token has probability 1 and no alternatives."""
    if top is None:
        return ()
    raw = tuple(token.encode())
    return (TokenLogprob(token, 0.0, raw, (TopLogprob(token, 0.0, raw),) if top else ()),)


def _call_id(call: ScriptedCall, index: int, number: int) -> str:
    return "call_" + hashlib.sha256(f"{call.name}\0{call.text}\0{index}\0{number}".encode()).hexdigest()[:24]
