"""Follows the events of a relayed response; its frames pass unchanged. Pure: bytes in, bytes out."""

from typing import Any

import msgspec

from antiphon.backends.base import RelayOutcome
from antiphon.backends.upstream.answer_reader import AnswerReader
from antiphon.backends.upstream.chunks import ErrorChunk, error_of, read_object
from antiphon.backends.upstream.sse import (
    DONE,
    FrameSplitter,
    MalformedStream,
    check_text,
    is_empty_event,
    is_error_event,
    payloads,
    relayed_frame,
)

STEERING = b'"response.steer.'
"""How the types of the events begin that say what becomes of input that steers; they may come after the response's last event."""
_STEERING = "response.steer."
_ENDS = frozenset({"response.completed", "response.incomplete", "response.failed", "error"})


class _Event(msgspec.Struct):
    type: Any = None
    sequence_number: Any = None


_event = msgspec.json.Decoder(_Event)


class ResponseInspector:
    """Follows one stream of a response: the model, the id, the usage, and whether it has ended.

    Of what comes after the last event only an end mark and what is said of steering go on.
    """

    last_frame = b""
    """What is added to a complete stream that closes without ``[DONE]``: nothing, it ends with an event."""

    def __init__(self) -> None:
        self._splitter = FrameSplitter()
        self._reader = AnswerReader("text/event-stream")
        self._num_deltas = 0
        self._next_number = 0
        self.has_begun = False
        self.has_finished = False
        """Whether the last event of a response has come."""
        self.has_more = False
        """Whether an event came after it."""
        self.is_done = False

    @property
    def is_over(self) -> bool:
        """Whether at most an end mark is missing."""
        return self.has_finished

    @property
    def outcome(self) -> RelayOutcome:
        seen = self._reader.outcome
        return RelayOutcome(
            model=seen.model,
            usage=seen.usage,
            finish_reason="stop" if self.has_finished else None,
            num_chunks=self._num_deltas,
            object_id=seen.object_id,
            next_sequence_number=self._next_number,
        )

    def feed(self, data: bytes) -> bytes:
        """Return the whole frames to send on. ``ErrorChunk`` for an error in place of a response."""
        frames = self._splitter.feed(data)
        if not frames or self.is_done:
            return b""
        kept: list[bytes] = []
        for frame, payload in payloads(frames):
            if not self.has_finished:
                check_text(frame)
            if payload is None:
                written = None if self.has_finished else relayed_frame(frame, has_data=False)
            elif payload.lstrip().startswith(DONE):
                self.is_done = True
                kept.append(frame + b"\n\n")
                break
            elif is_empty_event(payload):
                written = None
            else:
                written = relayed_frame(frame) if self._inspect(frame, payload) else None
            if written is not None:
                kept.append(written + b"\n\n")
        return b"".join(kept)

    def _inspect(self, frame: bytes, payload: bytes) -> bool:
        """Record what an event says; returns whether it goes on."""
        try:
            event = _event.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            if not self.has_finished:
                raise MalformedStream(f"data that is not JSON ({error})") from None
            event = _Event()
        kind = event.type if isinstance(event.type, str) else ""
        if self.has_finished and not kind.startswith(_STEERING):
            self.has_more = True
            return False
        if not self.has_begun and (event.type is None or kind == "error"):
            # Nothing has been said yet: the router may try another upstream.
            raise ErrorChunk(error_of(read_object(payload), is_error=True) or payload)
        self.has_begun = True
        self._reader.take(payload)
        self.has_finished |= kind in _ENDS or is_error_event(frame)
        self._num_deltas += kind.endswith(".delta")
        if isinstance(event.sequence_number, int):
            self._next_number = event.sequence_number + 1
        return True


def inspect_response(body: bytes) -> RelayOutcome:
    """Return what is read of a response in one piece; raises ``MalformedStream`` and ``ErrorChunk``."""
    value = read_object(body)
    if value.get("object") not in {"response", "response.compaction"}:
        if (error := error_of(value)) is not None:
            raise ErrorChunk(error)
        raise MalformedStream("an answer that is not a response")
    reader = AnswerReader("application/json")
    reader.feed(body)
    reader.finish()
    seen = reader.outcome
    return RelayOutcome(
        model=seen.model, usage=seen.usage, finish_reason="stop", num_bytes=len(body), object_id=seen.object_id
    )
