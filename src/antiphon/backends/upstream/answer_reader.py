"""Reads what the ledger needs from answers of any path: JSON objects and event streams. Pure: it changes no byte."""

from typing import Any, cast

import msgspec

from antiphon.backends.upstream.chunks import ABSENT, read_usage
from antiphon.backends.upstream.sse import FrameSplitter, MalformedStream, payloads
from antiphon.protocol.events import Usage
from antiphon.protocol.forward import ForwardOutcome

_MAX_READ = 1 << 20
"""The longest JSON answer that is read; longer ones are files and vectors."""
_MAX_ID = 200


class _Read(msgspec.Struct):
    """The fields of an answer or of an event. In an event of Responses, ``response`` has them."""

    id: Any = None
    object: Any = None
    model: Any = None
    usage: msgspec.Raw = msgspec.Raw(b"")
    response: msgspec.Raw = msgspec.Raw(b"")


_read = msgspec.json.Decoder(_Read)
_details = {"input_tokens": "prompt_tokens", "output_tokens": "completion_tokens"}


class AnswerReader:
    """Follows one answer. ``content_type`` decides what it is; of anything but JSON and events nothing is read."""

    def __init__(self, content_type: str) -> None:
        self._is_json = content_type == "application/json"
        self._splitter = FrameSplitter() if content_type == "text/event-stream" else None
        self._text = bytearray()
        self._model: str | None = None
        self._object_id: str | None = None
        self._usage: Usage | None = None

    @property
    def outcome(self) -> ForwardOutcome:
        return ForwardOutcome(self._model, self._object_id, self._usage)

    def feed(self, data: bytes) -> None:
        """Read on. Never fails: what cannot be read is for the client to judge."""
        if self._splitter is not None:
            try:
                frames = self._splitter.feed(data)
            except MalformedStream:
                self._splitter = None
                return
            for _, payload in payloads(frames):
                if payload is not None:
                    self.take(payload)
        elif self._is_json:
            self._text += data
            if len(self._text) > _MAX_READ:
                self._is_json = False
                self._text.clear()

    def finish(self) -> None:
        """The answer is complete: read it, if it is one JSON object."""
        if self._text:
            self._note(bytes(self._text))
            self._text.clear()

    def take(self, payload: bytes) -> None:
        """Read the data of one event."""
        if self._object_id is None or b'"usage"' in payload:
            self._note(payload)

    def _note(self, text: bytes) -> None:
        try:
            read = _read.decode(text)
            if bytes(read.response) not in ABSENT:
                read = _read.decode(read.response)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return
        if isinstance(read.id, str) and read.object != "list" and 0 < len(read.id) <= _MAX_ID:
            self._object_id = read.id
        if isinstance(read.model, str):
            self._model = read.model
        self._usage = read_any_usage(read.usage) or self._usage


def read_any_usage(text: msgspec.Raw) -> Usage | None:
    """Return a usage in the words of chat completions or of every newer endpoint; None if its counts cannot be read."""
    if bytes(text) in ABSENT:
        return None
    try:
        value: Any = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    fields = cast("dict[str, Any]", value)
    for new, old in _details.items():
        if new in fields:
            fields[old] = fields[new]
            # Realtime writes ``input_token_details``, every other endpoint ``input_tokens_details``.
            fields[f"{old}_details"] = fields.get(f"{new}_details") or fields.get(f"{new[:-1]}_details")
    # Rerankers report one number, for they have no output.
    has_output = "prompt_tokens" in fields or "completion_tokens" in fields
    return read_usage(msgspec.Raw(msgspec.json.encode(fields)), has_output=has_output)
