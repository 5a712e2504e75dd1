"""Reads what the ledger needs from the messages of a WebSocket: the events of Realtime and of Responses. Pure."""

from typing import Any

import msgspec

from antiphon.backends.upstream.answer_reader import read_any_usage
from antiphon.backends.upstream.chunks import ABSENT
from antiphon.protocol.forward import SocketEvent

_BEGINS = "response.created"
_ENDS = frozenset({"response.done", "response.completed", "response.incomplete", "response.failed"})
_ERROR = "error"
_KINDS = frozenset({_BEGINS, *_ENDS, _ERROR})
_MAX_ID = 200


class _Event(msgspec.Struct):
    type: Any = None
    response: msgspec.Raw = msgspec.Raw(b"")


class _Response(msgspec.Struct):
    id: Any = None
    model: Any = None
    status: Any = None
    usage: msgspec.Raw = msgspec.Raw(b"")


_event = msgspec.json.Decoder(_Event)
_response = msgspec.json.Decoder(_Response)


def read_event(message: str | bytes) -> SocketEvent | None:
    """Return what a message says of a response, None for any other. Never fails: what cannot be read is for the client to judge.

    The decoder skips what is not named here, which takes less time than to search the text for a word.
    """
    try:
        event = _event.decode(message)
        if not isinstance(event.type, str) or event.type not in _KINDS:
            return None
        response = _Response() if bytes(event.response) in ABSENT else _response.decode(event.response)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if event.type == _ERROR:
        return SocketEvent("refused", is_failed=True)
    has_id = isinstance(response.id, str) and 0 < len(response.id) <= _MAX_ID
    return SocketEvent(
        "begun" if event.type == _BEGINS else "ended",
        object_id=response.id if has_id else None,
        model=response.model if isinstance(response.model, str) else None,
        usage=read_any_usage(response.usage),
        is_failed=response.status == "failed",
    )
