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
    """A relayed answer: its headers, its pieces and what was learned from it."""

    headers: dict[str, str]
    pieces: tuple[bytes, ...]
    outcome: RelayOutcome


_record = msgspec.msgpack.Decoder(RelayRecord)


def pack_events(answer: Sequence[Event]) -> bytes:
    """Write a whole answer, with what its meter says at its end: that is what is spared when it is given again."""
    return _pack.encode(
        [
            (_PLACES[type(event)], msgspec.structs.replace(event, cache=None) if isinstance(event, Started) else event)
            for event in answer
        ]
    )


def unpack_events(stored: bytes) -> list[Event]:
    """Read it again; ``msgspec.DecodeError`` if it is none."""
    return [_kinds[place].decode(value) for place, value in _pairs.decode(stored)]


def pack_relay(record: RelayRecord) -> bytes:
    return _pack.encode(record)


def unpack_relay(stored: bytes) -> RelayRecord:
    """Read a relayed answer again; ``msgspec.DecodeError`` if it is none."""
    return _record.decode(stored)
