"""An upstream's stream as typed events, for callers that need events instead of bytes."""

from collections.abc import AsyncGenerator, Iterator
from typing import Any, TypeVar, cast, get_args

import msgspec

from antiphon.backends.upstream.chunks import (
    ChatChoice,
    ChatChunk,
    ErrorChunk,
    LogprobBody,
    LogprobsBody,
    TextChoice,
    TextChunk,
    TextLogprobs,
    ToolCallBody,
    error_of,
    error_of_event,
    read_object,
    read_usage,
)
from antiphon.backends.upstream.dialects import Normaliser
from antiphon.backends.upstream.failures import disconnected, error_from_chunk, protocol_error
from antiphon.backends.upstream.http import UpstreamAnswer
from antiphon.backends.upstream.sse import (
    DONE,
    FrameSplitter,
    MalformedStream,
    is_empty_event,
    is_error_event,
    is_other_event,
    payloads,
)
from antiphon.backends.upstream.usage_accumulator import UsageAccumulator
from antiphon.protocol.events import (
    ChoiceFinished,
    Completed,
    Event,
    FinishReason,
    Meter,
    ReasoningDelta,
    RefusalDelta,
    Started,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    ToolCallStarted,
    TopLogprob,
    Usage,
)

_REASONS = get_args(FinishReason)
Chunk = TypeVar("Chunk", ChatChunk, TextChunk)


async def read_chunks(upstream: str, answer: UpstreamAnswer, kind: type[Chunk]) -> AsyncGenerator[Chunk]:
    """Yield the chunks of a stream in OpenAI's form, up to ``[DONE]`` or its end; ``UpstreamError`` for any other stream."""
    splitter, normaliser = FrameSplitter(), Normaliser(is_stream=True)
    answer.expect_event()
    while data := await answer.read_some():
        try:
            for frame, payload in payloads(splitter.feed(data)):
                if payload is None or is_empty_event(payload) or is_other_event(frame, payload):
                    continue
                answer.event_came()
                if payload.lstrip().startswith(DONE):
                    return
                yield _read_chunk(payload, kind, normaliser, is_error=is_error_event(frame))
        except (MalformedStream, msgspec.ValidationError) as error:
            raise protocol_error(upstream, str(error)) from None
        except ErrorChunk as chunk:
            raise error_from_chunk(upstream, answer.masked(chunk.error)) from None


def _read_chunk(payload: bytes, kind: type[Chunk], normaliser: Normaliser, *, is_error: bool) -> Chunk:
    if is_error:
        raise ErrorChunk(error_of_event(payload))
    value = read_object(payload)
    if (error := error_of(value)) is not None:
        raise ErrorChunk(error)
    normaliser.apply(value)
    value["usage"] = msgspec.Raw(msgspec.json.encode(value.get("usage")))
    return msgspec.convert(value, kind)


class EventReader:
    """Turns the chunks of one answer into events; ``num_choices`` of them have to end, ``n`` for each prompt.

    ``prompt_tokens`` is the estimate for an upstream that does not report its usage.
    """

    def __init__(self, upstream: str, num_choices: int, n: int, prompt_tokens: int = 0) -> None:
        self._upstream = upstream
        self._num_choices = num_choices
        self._meter = Meter()
        self._usage = UsageAccumulator(n)
        self._estimated_prompt_tokens = prompt_tokens
        self._num_deltas = 0
        self._is_started = False
        self._finished: set[int] = set()
        self._calls: set[tuple[int, int]] = set()
        self._unstarted: dict[tuple[int, int], ToolCallStarted] = {}
        """Calls without arguments so far: more of their names may come."""

    def feed(self, chunk: ChatChunk | TextChunk, model: str) -> Iterator[Event]:
        """Yield the chunk's events. ``model`` is reported for an upstream that does not name its model."""
        if not self._is_started:
            self._is_started = True
            yield Started(chunk.model or model, 0, meter=self._meter, system_fingerprint=chunk.system_fingerprint)
        usage = read_usage(chunk.usage)
        if usage is not None:
            self._usage.add(usage, [choice.index for choice in chunk.choices])
            self._meter.usage = self._usage.total or Usage()
        for choice in chunk.choices:
            if not 0 <= choice.index < self._num_choices:
                raise protocol_error(self._upstream, f"the choice {choice.index} of {self._num_choices}")
            if choice.index in self._finished:
                continue
            self._num_deltas += 1
            yield from self._text_events(choice) if isinstance(choice, TextChoice) else self._chat_events(choice)
            if choice.finish_reason:
                self._finished.add(choice.index)
                yield from self._start_calls(choice.index)
                yield ChoiceFinished(choice.index, self._reason(choice.finish_reason))

    def end(self) -> Completed:
        """Return the last event, with an estimate for usage that was not reported; ``UpstreamError`` if a choice never ended."""
        if len(self._finished) < self._num_choices:
            raise disconnected(self._upstream)
        usage = self._usage.total
        if usage is None:
            return Completed(Usage(self._estimated_prompt_tokens, self._num_deltas), is_estimate=True)
        return Completed(usage)

    def _chat_events(self, choice: ChatChoice) -> Iterator[Event]:
        delta, index = choice.delta, choice.index
        if delta is None:
            return
        if reasoning := delta.reasoning_content or delta.reasoning:
            yield ReasoningDelta(index, reasoning)
        if delta.refusal:
            yield RefusalDelta(index, delta.refusal)
        if delta.content:
            yield TextDelta(index, delta.content, _logprobs(choice.logprobs))
        for call in delta.tool_calls or ():
            yield from self._call_events(index, call)
        if delta.function_call is not None:
            yield from self._call_events(index, ToolCallBody(function=delta.function_call))

    def _call_events(self, index: int, call: ToolCallBody) -> Iterator[Event]:
        is_custom = call.custom is not None
        name = call.custom.name if call.custom else call.function and call.function.name
        arguments = call.custom.input if call.custom else call.function and call.function.arguments
        key = index, call.index
        if key not in self._calls:
            begun = self._unstarted.get(key)
            if begun is not None:
                self._unstarted[key] = msgspec.structs.replace(begun, name=begun.name + (name or ""))
            elif name:
                kind = "custom" if is_custom else "function"
                self._unstarted[key] = ToolCallStarted(index, call.index, call.id or "call_function", name, kind)
            else:
                raise protocol_error(self._upstream, "a tool call without a name")
        if arguments:
            yield from self._start_calls(index, call.index)
            yield ToolCallDelta(index, call.index, arguments)

    def _start_calls(self, index: int, last: int | None = None) -> Iterator[Event]:
        """Begin the calls of a choice whose names are complete: those up to number ``last``, or all."""
        for key in sorted(self._unstarted):
            if key[0] == index and (last is None or key[1] <= last):
                self._calls.add(key)
                yield self._unstarted.pop(key)

    def _text_events(self, choice: TextChoice) -> Iterator[Event]:
        if choice.text:
            yield TextDelta(choice.index, choice.text, tuple(self._text_logprobs(choice.logprobs)))

    def _text_logprobs(self, body: TextLogprobs | None) -> Iterator[TokenLogprob]:
        if body is None:
            return
        if len(body.tokens) != len(body.token_logprobs):
            found = f"{len(body.tokens)} tokens with {len(body.token_logprobs)} log-probabilities"
            raise protocol_error(self._upstream, found)
        tops: list[Any] = list(body.top_logprobs or [])
        for place, (token, logprob) in enumerate(zip(body.tokens, body.token_logprobs, strict=True)):
            others: dict[str, float] = (tops[place] if place < len(tops) else None) or {}
            ranked = sorted(others.items(), key=lambda item: -item[1])
            yield TokenLogprob(
                token,
                logprob,
                tuple(token.encode()),
                tuple(TopLogprob(text, value, tuple(text.encode())) for text, value in ranked),
            )

    def _reason(self, reason: str) -> FinishReason:
        if reason not in _REASONS:
            raise protocol_error(self._upstream, f"the finish_reason {reason!r}")
        return cast("FinishReason", reason)


def _logprobs(body: LogprobsBody | None) -> tuple[TokenLogprob, ...]:
    entries = (body.content or body.refusal or []) if body else []
    return tuple(
        TokenLogprob(
            entry.token, entry.logprob, _bytes_of(entry), tuple(_top(other) for other in entry.top_logprobs or ())
        )
        for entry in entries
    )


def _top(entry: LogprobBody) -> TopLogprob:
    return TopLogprob(entry.token, entry.logprob, _bytes_of(entry))


def _bytes_of(entry: LogprobBody) -> tuple[int, ...]:
    return tuple(entry.token.encode() if entry.bytes is None else entry.bytes)
