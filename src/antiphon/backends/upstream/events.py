"""An upstream's stream as typed events, for callers that need events instead of bytes."""

from collections.abc import AsyncGenerator, Iterator
from typing import Any, TypeVar, cast, get_args

import msgspec

from antiphon.backends.upstream.chunks import (
    ChatChoice,
    ChatChunk,
    LogprobBody,
    LogprobsBody,
    TextChoice,
    TextChunk,
    TextLogprobs,
    ToolCallBody,
    error_in,
)
from antiphon.backends.upstream.failures import disconnected, error_from_chunk, protocol_error
from antiphon.backends.upstream.http import UpstreamAnswer
from antiphon.backends.upstream.sse import DONE, FrameSplitter, MalformedStream, payloads
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
    """Yield the chunks of a stream up to ``[DONE]``; ``UpstreamError`` when it breaks off or is no such stream."""
    decoder = msgspec.json.Decoder(kind)
    splitter = FrameSplitter()
    while data := await answer.read_some():
        try:
            for _, payload in payloads(splitter.feed(data)):
                if payload == DONE:
                    return
                # llama-server sends this while it reads several prompts.
                if payload and payload != b"null":
                    yield _checked(upstream, answer, decoder.decode(payload))
        except (MalformedStream, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise protocol_error(upstream, str(error)) from None
    raise disconnected(upstream)


def _checked(upstream: str, answer: UpstreamAnswer, chunk: Chunk) -> Chunk:
    if (error := error_in(chunk)) is not None:
        raise error_from_chunk(upstream, answer.masked(error))
    return chunk


class EventReader:
    """Turns the chunks of one answer into events; ``num_choices`` of them have to end, ``n`` for each prompt."""

    def __init__(self, upstream: str, num_choices: int, n: int) -> None:
        self._upstream = upstream
        self._num_choices = num_choices
        self._meter = Meter()
        self._usage = UsageAccumulator(n)
        self._is_started = False
        self._finished: set[int] = set()
        self._calls: set[tuple[int, int]] = set()

    def feed(self, chunk: ChatChunk | TextChunk, model: str) -> Iterator[Event]:
        """Yield the chunk's events. ``model`` stands in for an upstream that does not name its model."""
        if not self._is_started:
            self._is_started = True
            yield Started(chunk.model or model, 0, meter=self._meter, system_fingerprint=chunk.system_fingerprint)
        if chunk.usage is not None:
            self._usage.add(chunk.usage.usage(), [choice.index for choice in chunk.choices])
            self._meter.usage = self._usage.total or Usage()
        for choice in chunk.choices:
            if choice.index in self._finished:
                continue
            yield from _text_events(choice) if isinstance(choice, TextChoice) else self._chat_events(choice)
            if choice.finish_reason:
                self._finished.add(choice.index)
                yield ChoiceFinished(choice.index, self._reason(choice.finish_reason))

    def end(self) -> Completed:
        """Return the last event; ``UpstreamError`` if a choice never ended or nothing was said of the usage."""
        if len(self._finished) < self._num_choices:
            raise disconnected(self._upstream)
        usage = self._usage.total
        if usage is None:
            raise protocol_error(self._upstream, "a stream without usage")
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
            yield from self._call_events(index, ToolCallBody(function=delta.function_call, id="call_function"))

    def _call_events(self, index: int, call: ToolCallBody) -> Iterator[Event]:
        is_custom = call.custom is not None
        name = call.custom.name if call.custom else call.function and call.function.name
        arguments = call.custom.input if call.custom else call.function and call.function.arguments
        if (index, call.index) not in self._calls:
            if not name:
                raise protocol_error(self._upstream, "a tool call without a name")
            self._calls.add((index, call.index))
            call_id = call.id or f"call_{index}_{call.index}"
            yield ToolCallStarted(index, call.index, call_id, name, "custom" if is_custom else "function")
        if arguments:
            yield ToolCallDelta(index, call.index, arguments)

    def _reason(self, reason: str) -> FinishReason:
        if reason not in _REASONS:
            raise protocol_error(self._upstream, f"the finish_reason {reason!r}")
        return cast("FinishReason", reason)


def _text_events(choice: TextChoice) -> Iterator[Event]:
    if choice.text:
        yield TextDelta(choice.index, choice.text, tuple(_text_logprobs(choice.logprobs)))


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


def _text_logprobs(body: TextLogprobs | None) -> Iterator[TokenLogprob]:
    if body is None:
        return
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
