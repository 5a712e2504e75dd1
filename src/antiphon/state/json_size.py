"""Whether a JSON value is small, found out at a cost that does not grow with the value."""

from collections.abc import Mapping
from typing import Any, cast

MAX_CHARS_ON_LOOP = 20_000
"""What is smaller is encoded and compressed faster than a thread begins to."""


def has_fewer_chars(value: Any, limit: int) -> bool:
    """Whether the texts and names in ``value``, and 8 for each value, come to fewer than ``limit`` characters."""
    waiting: list[Any] = [value]
    room = limit
    while waiting:
        one = waiting.pop()
        room -= 8
        if isinstance(one, str):
            room -= len(one)
        elif isinstance(one, Mapping):
            fields = cast("Mapping[str, Any]", one)
            room -= 8 * len(fields)
            if room > 0:
                waiting.extend(fields.values())
                room -= sum(map(len, fields))
        elif isinstance(one, list | tuple):
            items = cast("list[Any]", one)
            if 8 * len(items) >= room:
                return False
            waiting.extend(items)
        if room <= 0:
            return False
    return True
