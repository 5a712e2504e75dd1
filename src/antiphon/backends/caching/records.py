"""Answers as bytes for a store, and back."""

from collections.abc import Sequence
from typing import Any

import msgspec

from antiphon.backends.base import RelayOutcome
from antiphon.protocol import events
from antiphon.protocol.events import Event, Started

_KINDS: tuple[type[Any], ...] = (
    events.Started,
    events.TextDelta,
    events.ReasoningDelta,
    events.RefusalDelta,
    events.ToolCallStarted,
    events.ToolCallDelta,
    events.ChoiceFinished,
    events.Completed,
)
_PLACES = {kind: place for place, kind in enumerate(_KINDS)}
_pack = msgspec.msgpack.Encoder()
_pairs = msgspec.msgpack.Decoder(list[tuple[int, msgspec.Raw]])
_kinds = [msgspec.msgpack.Decoder(kind) for kind in _KINDS]


class RelayRecord(msgspec.Struct, frozen=True):
    """A relayed answer: its headers, its pieces and its outcome."""

    headers: dict[str, str]
    pieces: tuple[bytes, ...]
    outcome: RelayOutcome


_record = msgspec.msgpack.Decoder(RelayRecord)


def pack_events(answer: Sequence[Event]) -> bytes:
    """Serialise a whole answer, with its meter's final values: what is spared when the answer is reused."""
    return _pack.encode(
        [
            (_PLACES[type(event)], msgspec.structs.replace(event, cache=None) if isinstance(event, Started) else event)
            for event in answer
        ]
    )


def unpack_events(stored: bytes) -> list[Event]:
    """Deserialise an answer; ``msgspec.DecodeError`` for any other bytes."""
    return [_kinds[place].decode(value) for place, value in _pairs.decode(stored)]


def pack_relay(record: RelayRecord) -> bytes:
    return _pack.encode(record)


def unpack_relay(stored: bytes) -> RelayRecord:
    """Deserialise a relayed answer; ``msgspec.DecodeError`` for any other bytes."""
    return _record.decode(stored)
