"""Inspects an answer that is relayed, and changes as little of it as possible. Pure: bytes in, bytes out.

A frame in OpenAI's form leaves with its bytes unchanged, unless the usage that we asked for has to be taken out of it because
the client had not asked. Line ends become LF. Events that say nothing (``null``, or no data) are left out, and frames in a
dialect are brought into OpenAI's form (``dialects.py``).
"""

import msgspec

from antiphon.backends.base import RelayOutcome
from antiphon.backends.upstream.chunks import (
    ABSENT,
    ErrorChunk,
    PeekedAnswer,
    PeekedChoice,
    error_of,
    error_of_event,
    read_object,
    read_usage,
)
from antiphon.backends.upstream.dialects import Normaliser
from antiphon.backends.upstream.sse import (
    DONE,
    FrameSplitter,
    MalformedStream,
    check_text,
    is_empty_event,
    is_error_event,
    is_other_event,
    payloads,
    relayed_frame,
)
from antiphon.backends.upstream.usage_accumulator import UsageAccumulator
from antiphon.protocol.relay import Operation
from antiphon.wire.finish_reasons import STANDARD

_peek = msgspec.json.Decoder(PeekedAnswer)
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encoder = msgspec.json.Encoder()


class StreamInspector:
    """Follows one stream of ``n`` choices per prompt. ``hide_usage`` takes out the usage that the client did not ask for."""

    last_frame = b"data: " + DONE + b"\n\n"
    """What is added to a complete stream that closes without ``[DONE]``."""

    def __init__(self, *, hide_usage: bool, n: int = 1) -> None:
        self._hide_usage = hide_usage
        self._splitter = FrameSplitter()
        self._normaliser = Normaliser(is_stream=True)
        self._model: str | None = None
        self._usage = UsageAccumulator(n)
        self._finish_reason: str | None = None
        self._num_chunks = 0
        self.has_begun = False
        """Whether an event has come; comments before it say nothing."""
        self.is_done = False

    @property
    def outcome(self) -> RelayOutcome:
        return RelayOutcome(self._model, self._usage.total, self._finish_reason, self._num_chunks)

    @property
    def is_over(self) -> bool:
        """Whether at most an end mark is missing, which a chunk cannot tell: another choice or the usage may follow."""
        return self.is_done

    @property
    def has_finished(self) -> bool:
        """Whether a choice has ended: a stream that closes after it without ``[DONE]`` lacks nothing."""
        return self._finish_reason is not None

    def feed(self, data: bytes) -> bytes:
        """Return the whole frames to send on; ``MalformedStream`` and ``ErrorChunk`` end the stream."""
        frames = self._splitter.feed(data)
        if not frames or self.is_done:
            return b""
        check_text(frames)
        kept: list[bytes] = []
        is_changed = False
        for frame, payload in payloads(frames):
            if payload is not None and payload.lstrip().startswith(DONE):
                is_changed = True
                kept.append(b"data: " + DONE)
                self.is_done = self.has_begun = True
                break
            shown = self._inspect(frame, payload)
            is_changed |= shown is not frame
            if shown is not None:
                kept.append(shown)
        if not is_changed and not self.is_done:
            return frames
        return b"".join(frame + b"\n\n" for frame in kept)

    def _inspect(self, frame: bytes, payload: bytes | None) -> bytes | None:
        """Record what an event says; returns the frame to send in its place, None for none."""
        if payload is None or is_other_event(frame, payload):
            return relayed_frame(frame, has_data=False)
        if not payload.startswith(b"{") and is_empty_event(payload):
            return None
        self.has_begun = True
        if is_error_event(frame):
            raise ErrorChunk(error_of_event(payload))
        written, seen = inspect(payload, self._normaliser)
        self._record(seen)
        if self._hide_usage and b'"usage"' in written:
            without = _without_usage(written, seen)
            return None if without is None else b"data: " + without
        return relayed_frame(frame) if written is payload else b"data: " + written

    def _record(self, seen: PeekedAnswer) -> None:
        if seen.model is not None:
            self._model = seen.model
        if (usage := read_usage(seen.usage)) is not None:
            self._usage.add(usage, [choice.index for choice in seen.choices or ()])
        if seen.choices:
            self._num_chunks += 1
            self._finish_reason = _last_reason(seen.choices) or self._finish_reason


def inspect(text: bytes, normaliser: Normaliser, *, has_choices: bool = True) -> tuple[bytes, PeekedAnswer]:
    """Return an answer or a chunk in OpenAI's form - the very bytes, where they are in it - and what is read of it.

    ``has_choices`` is False for embeddings. Raises ``MalformedStream`` and ``ErrorChunk``.
    """
    try:
        seen = _peek.decode(text)
    except msgspec.ValidationError:
        seen = None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedStream(f"data that is not JSON ({error})") from None
    if seen is not None and seen.is_error:
        raise ErrorChunk(bytes(seen.error))
    if seen is not None and not (has_choices and _may_be_dialect(text, seen, normaliser)):
        return text, seen
    value = read_object(text)
    if (error := error_of(value)) is not None:
        raise ErrorChunk(error)
    is_changed = has_choices and normaliser.apply(value)
    return (_encoder.encode(value) if is_changed else text), _peeked(value)


def _may_be_dialect(text: bytes, seen: PeekedAnswer, normaliser: Normaliser) -> bool:
    # Every chunk of every stream comes by here: plain loops, no generators.
    if seen.choices is None or b'"tool_calls"' in text:
        return True
    for choice in seen.choices:
        said = choice.delta if normaliser.is_stream else choice.message
        if said is None and not bytes(choice.text):
            return True
        if choice.finish_reason is not None and (choice.finish_reason not in STANDARD or normaliser.is_calling):
            return True
        if said is not None and said.content:
            normaliser.note_delta(choice.index)
    return False


def _peeked(value: dict[str, object]) -> PeekedAnswer:
    """Read what can be read of an answer some of whose fields have other types."""
    model, choices = value.get("model"), value.get("choices")
    read: list[PeekedChoice] | None = None
    if isinstance(choices, list):
        read = []
        for choice in choices:  # pyright: ignore[reportUnknownVariableType] - JSON
            try:
                read.append(msgspec.convert(choice, PeekedChoice))
            except msgspec.ValidationError:
                read.append(PeekedChoice(index=0))
    return PeekedAnswer(
        model=model if isinstance(model, str) else None,
        choices=read,
        usage=msgspec.Raw(_encoder.encode(value.get("usage"))),
        data=msgspec.Raw(_encoder.encode(value.get("data"))),
    )


def _without_usage(payload: bytes, seen: PeekedAnswer) -> bytes | None:
    """Return a chunk without its usage (``"usage": null`` is in every chunk); None for one that is nothing but usage."""
    if bytes(seen.usage) not in ABSENT and not seen.choices:
        return None
    fields = _fields.decode(payload)
    fields.pop("usage", None)
    return _encoder.encode(fields)


def _last_reason(choices: list[PeekedChoice]) -> str | None:
    reason = None
    for choice in choices:
        reason = choice.finish_reason or reason
    return reason


def inspect_whole(body: bytes, operation: Operation) -> tuple[bytes, RelayOutcome]:
    """Return an answer in one piece in OpenAI's form and its outcome; raises ``MalformedStream`` and ``ErrorChunk``."""
    if not body.lstrip().startswith(b"{"):
        raise MalformedStream("a body that is not a JSON object")
    check_text(body)
    is_embedding = operation == "embeddings"
    written, seen = inspect(body, Normaliser(is_stream=False), has_choices=not is_embedding)
    if bytes(seen.data) in ABSENT if is_embedding else not seen.choices:
        raise MalformedStream("an answer without embeddings" if is_embedding else "an answer without choices")
    outcome = RelayOutcome(
        model=seen.model,
        usage=read_usage(seen.usage, has_output=not is_embedding),
        finish_reason=_last_reason(seen.choices or []),
        num_bytes=len(body),
    )
    return written, outcome
