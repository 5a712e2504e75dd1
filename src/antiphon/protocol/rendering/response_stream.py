"""A response over the wire: the object whole, or its events as they happen.

Every streamed event has a ``sequence_number`` that rises by one, and an ``event:`` line with its type.
"""

import secrets
import time

import msgspec

from antiphon.protocol.errors import ApiError
from antiphon.protocol.events import Started, TextDelta
from antiphon.protocol.rendering.frames import encode
from antiphon.protocol.rendering.response_state import Item, Json, ResponseState, TurnEvent

_DELTA = "response.output_text.delta"
_PAD_TO = 64


class ResponseBody:
    """Collects a request's events; ``encoded`` is the answer once ``Completed`` was fed."""

    def __init__(self, state: ResponseState) -> None:
        self.state = state

    def feed(self, event: TurnEvent) -> None:
        self.state.take(event)

    def encoded(self) -> bytes:
        return self.state.encoded()


class ResponseStream:
    """Turns each event into the frames that say it, complete and ready to send.

    ``number`` is the ``sequence_number`` of the next frame.
    """

    def __init__(self, state: ResponseState, *, obfuscates: bool = False, is_plain: bool = True) -> None:
        self.state = state
        self.number = 0
        self._obfuscates = obfuscates
        self._is_plain = is_plain and not obfuscates
        self._growing: Item | None = None
        self._opening = b""

    def feed(self, event: TurnEvent) -> list[bytes]:
        if type(event) is TextDelta and self._growing is not None:
            self._growing.pieces.append(event.text)
            number = self.number
            self.number = number + 1
            return [self._opening + encode(event.text) + b',"logprobs":[],"sequence_number":%d}\n\n' % number]
        frames = [self._frame(*named) for named in self.state.feed(event, time.time())]
        if isinstance(event, Started):
            value = self.state.encoded()
            frames = [self._snapshot_frame(f"response.{kind}", value) for kind in ("created", "in_progress")]
        elif self.state.status in {"completed", "incomplete"}:
            frames.append(self._snapshot_frame(f"response.{self.state.status}", self.state.encoded()))
        self._watch()
        return frames

    def error(self, error: ApiError) -> bytes:
        """Return the frame for a failure in the middle of the stream; nothing follows it."""
        self.state.fail(error, time.time())
        return self._snapshot_frame("response.failed", self.state.encoded())

    def done(self) -> bytes:
        """Return what follows the last event: nothing, since that event says that it is the last."""
        return b""

    def _watch(self) -> None:
        """Prepare for the deltas of the open message, which differ in little; every other event may end it."""
        message = self.state.open_message if self._is_plain else None
        if message is self._growing:
            return
        self._growing = message
        if message is not None:
            head = encode({"type": _DELTA, **message.place(content_index=0)})
            self._opening = b"event: " + _DELTA.encode() + b"\ndata: " + head[:-1] + b',"delta":'

    def _snapshot_frame(self, kind: str, response: bytes) -> bytes:
        """Return an event that shows the whole response, given as JSON."""
        number = self.number
        self.number += 1
        head = b'event: %b\ndata: {"type":"%b","sequence_number":%d,"response":' % (
            kind.encode(),
            kind.encode(),
            number,
        )
        return head + response + b"}\n\n"

    def _frame(self, kind: str, fields: Json) -> bytes:
        value = {"type": kind, "sequence_number": self.number, **fields}
        self.number += 1
        return _event(value, obfuscates=self._obfuscates)


def _event(value: Json, *, obfuscates: bool) -> bytes:
    kind: str = value["type"]
    if obfuscates and kind.endswith(".delta"):
        missing = -len(encode(value)) % _PAD_TO
        value["obfuscation"] = secrets.token_hex(_PAD_TO)[:missing]
    return b"event: " + kind.encode() + b"\ndata: " + encode(value) + b"\n\n"


def with_obfuscation(frame: bytes, *, is_on: bool) -> bytes:
    """Return an event with noise that hides the length of its text, or without it, whichever way it was made."""
    head, _, data = frame.partition(b"\ndata: ")
    if not head.endswith(b".delta"):
        return frame
    value: Json = msgspec.json.decode(data)
    value.pop("obfuscation", None)
    return _event(value, obfuscates=is_on)


def response_error_frame(error: ApiError, number: int) -> bytes:
    """Return the event ``error`` with which a stream of a response ends that broke off; ``number`` is its sequence number."""
    value = {
        "type": "error",
        "code": error.code or error.type,
        "message": error.message,
        "param": error.param,
        "sequence_number": number,
    }
    return b"event: error\ndata: " + encode(value) + b"\n\n"
