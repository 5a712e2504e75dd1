"""Reads facts from llama.cpp's log that no function returns: warnings, and the memory of a context. Pure."""

import re
from collections import deque
from typing import Final, Literal

_WARNING: Final = 3
_MOST_LINES: Final = 40
_MEMORY: Final = re.compile(rb"\b(KV|RS) buffer size = +([\d.]+) MiB")


class NativeLog:
    """The latest warnings and errors, and the memory that was allocated since ``clear``."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=_MOST_LINES)
        self._mib: dict[str, float] = {}

    def take(self, level: int, text: bytes) -> None:
        """Read one piece of the log, of llama.cpp's ``level``."""
        if part := _MEMORY.search(text):
            kind = part[1].decode()
            self._mib[kind] = self._mib.get(kind, 0.0) + float(part[2])
        if level >= _WARNING:
            self._lines.append(text.decode("utf-8", "replace").rstrip())

    def clear(self) -> None:
        """Forget all lines and sizes, before a new model or context."""
        self._lines.clear()
        self._mib.clear()

    def warnings(self) -> str:
        """Return the latest warnings and errors, newest last."""
        return "\n".join(line for line in self._lines if line)

    def allocated_bytes(self, kind: Literal["KV", "RS"]) -> int | None:
        """Return the bytes for keys and values or for recurrent states, to a hundredth of a MiB for each device.

        None: the log mentions neither kind. A model may have only one of them.
        """
        return round(self._mib.get(kind, 0.0) * 2**20) if self._mib else None
