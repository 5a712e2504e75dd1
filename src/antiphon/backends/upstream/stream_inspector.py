"""Looks into an answer on its way through, and changes as little of it as can be.

Pure: bytes in, bytes out. A frame leaves as it came unless the usage that we asked for has to be taken out of it, because
the client had not asked.
"""

from collections.abc import Iterator

import msgspec

from antiphon.backends.base import RelayOutcome
from antiphon.backends.upstream.chunks import PeekedAnswer, PeekedChoice, error_in
from antiphon.backends.upstream.sse import DONE, FrameSplitter, MalformedStream, payloads
from antiphon.backends.upstream.usage_accumulator import UsageAccumulator

_peeked = msgspec.json.Decoder(PeekedAnswer)
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encoder = msgspec.json.Encoder()
_NOTHING_PEEKED = PeekedAnswer()


class ErrorChunk(Exception):  # noqa: N818 - what the stream carried
    """The upstream's stream ended with an error, or its whole answer is one; ``error`` is its JSON text."""

    def __init__(self, error: bytes) -> None:
        super().__init__(error)
        self.error = error


def peek(body: bytes) -> PeekedAnswer:
    """Read what the ledger needs from JSON; ``MalformedStream`` if it is none, nothing if its types are unknown to us."""
    try:
        return _peeked.decode(body)
    except msgspec.ValidationError:
        return _NOTHING_PEEKED
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedStream(f"data that is no JSON ({error})") from None


class StreamInspector:
    """Follows one stream of ``n`` choices per prompt. ``hide_usage`` takes out the usage that the client did not ask for."""

    def __init__(self, *, hide_usage: bool, n: int = 1) -> None:
        self._hide_usage = hide_usage
        self._splitter = FrameSplitter()
        self._model: str | None = None
        self._usage = UsageAccumulator(n)
        self._finish_reason: str | None = None
        self._num_chunks = 0
        self.is_done = False

    @property
    def outcome(self) -> RelayOutcome:
        return RelayOutcome(self._model, self._usage.total, self._finish_reason, self._num_chunks)

    @property
    def has_finished(self) -> bool:
        """Whether a choice has ended: a stream that closes after it without ``[DONE]`` lacks nothing."""
        return self._finish_reason is not None

    def feed(self, data: bytes) -> bytes:
        """Return the whole frames to send on; ``MalformedStream`` and ``ErrorChunk`` when there is nothing more to come."""
        frames = self._splitter.feed(data)
        if not frames or self.is_done:
            return b""
        kept: list[bytes] = []
        is_changed = False
        for frame, payload in payloads(frames):
            seen = self._look(payload) if payload and payload != DONE else None
            if payload == DONE:
                kept.append(frame)
                self.is_done = True
                break
            if seen is not None and self._hide_usage and b'"usage"' in payload:
                is_changed = True
                kept.extend(_without_usage(payload, seen))
            else:
                kept.append(frame)
        if not is_changed and not self.is_done:
            return frames
        return b"".join(frame + b"\n\n" for frame in kept)

    def _look(self, payload: bytes) -> PeekedAnswer:
        seen = peek(payload)
        if (error := error_in(seen)) is not None:
            raise ErrorChunk(error)
        if seen.model is not None:
            self._model = seen.model
        if seen.usage is not None:
            self._usage.add(seen.usage.usage(), [choice.index for choice in seen.choices or ()])
        if seen.choices:
            self._num_chunks += 1
            self._finish_reason = _last_reason(seen.choices) or self._finish_reason
        return seen


def _without_usage(payload: bytes, seen: PeekedAnswer) -> Iterator[bytes]:
    """The chunk that is nothing but usage goes; others lose the key (``"usage": null`` stands in every chunk)."""
    if seen.usage is not None and not seen.choices:
        return
    fields = _fields.decode(payload)
    fields.pop("usage", None)
    yield b"data: " + _encoder.encode(fields)


def _last_reason(choices: list[PeekedChoice]) -> str | None:
    return next((choice.finish_reason for choice in reversed(choices) if choice.finish_reason), None)


def whole_outcome(body: bytes) -> RelayOutcome:
    """Read the outcome of an answer that is no stream; ``MalformedStream`` and ``ErrorChunk`` if it is none."""
    if not body.lstrip().startswith(b"{"):
        raise MalformedStream("a body that is no JSON object")
    seen = peek(body)
    if (error := error_in(seen)) is not None:
        raise ErrorChunk(error)
    return RelayOutcome(
        model=seen.model,
        usage=seen.usage.usage() if seen.usage else None,
        finish_reason=_last_reason(seen.choices or []),
        num_bytes=len(body),
    )
