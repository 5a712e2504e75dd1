"""How items and messages lie in the database: as JSON, compressed where that is worth its time."""

import zlib
from collections.abc import Sequence
from typing import Any

import msgspec

Json = dict[str, Any]
_MIN_COMPRESSED = 512
_ARRAY = b"["
"""Begins JSON, and nothing that zlib compressed."""
_encode = msgspec.json.Encoder().encode


def packed(values: Sequence[Json]) -> bytes:
    """Return the values in the form that ``unpacked`` reads. Takes long for long ones."""
    value = _encode(values)
    return value if len(value) < _MIN_COMPRESSED else zlib.compress(value)


def unpacked(value: bytes) -> tuple[Json, ...]:
    """Return the values of a column."""
    return tuple(msgspec.json.decode(value if value.startswith(_ARRAY) else zlib.decompress(value)))
