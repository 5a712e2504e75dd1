"""What one rendering of a template may use: time, and characters written by all of its operations together.

A deadline alone does not hold: an operation in C, such as ``str.replace``, may build gigabytes before the next step is
counted. So the size of every result is worked out before the operation, and paid for.
"""

import time
from collections.abc import Iterator, Mapping
from typing import Any, cast

from antiphon.prompting.errors import TemplateBrokenError

PER_INPUT = 24
"""Characters that may be written for each character of the input: templates copy a message several times."""
MAX_CHARS = 64_000_000
"""Characters that may be written in any case, and the most that a rendered prompt has."""
NODE = 32
"""Characters that an entry of a list or mapping counts as: about its bytes."""


class Budget:
    """The rest of time and characters. Not safe for two renderings at once."""

    def __init__(self) -> None:
        self._deadline = float("inf")
        self._left = MAX_CHARS

    def start(self, seconds: float, num_chars: int) -> None:
        """Let what is rendered next take ``seconds`` at most, for an input of ``num_chars`` characters."""
        self._deadline = time.monotonic() + seconds
        self._left = MAX_CHARS + PER_INPUT * num_chars

    def tick(self) -> None:
        """Count a step. Raises ``TemplateBrokenError`` past the deadline."""
        if time.monotonic() > self._deadline:
            raise TemplateBrokenError("The chat template takes too long to render.")

    def spend(self, num_chars: int) -> None:
        """Pay for a result before it is made. Raises ``TemplateBrokenError`` if too little is left."""
        self._left -= num_chars
        if self._left < 0:
            raise TemplateBrokenError("The chat template builds strings or lists beyond its bounds.")

    def size(self, value: Any) -> int:
        """Return the characters of a value when it is written out; a part that occurs twice counts twice.

        Raises ``TemplateBrokenError`` for a value that is larger than what is left, without going through all of it.
        """
        if isinstance(value, str):
            return len(value)
        total = 0
        waiting: list[Iterator[Any]] = [iter((value,))]
        while waiting:
            item = next(waiting[-1], waiting)
            if item is waiting:
                waiting.pop()
                continue
            total += len(item) if isinstance(item, (str, bytes)) else NODE
            if isinstance(item, Mapping):
                entries = cast("Mapping[Any, Any]", item)
                waiting.append(part for entry in entries.items() for part in entry)
            elif isinstance(item, (list, tuple, set, frozenset)):
                waiting.append(iter(cast("list[Any]", item)))
            elif isinstance(item, int):
                total += item.bit_length() // 3
            if total > self._left:
                self.spend(total)
        return total


def num_chars(value: Any) -> int:
    """Return the characters of a JSON value."""
    total = 0
    waiting: list[Any] = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            total += len(item)
        elif isinstance(item, Mapping):
            entries = cast("Mapping[str, Any]", item)
            total += NODE * len(entries) + sum(map(len, entries))
            waiting += entries.values()
        elif isinstance(item, (list, tuple)):
            total += NODE * len(cast("list[Any]", item))
            waiting += cast("list[Any]", item)
    return total
