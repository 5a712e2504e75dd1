"""When a bounded store looks for what has to go, so that looking costs little however much it keeps."""

import time
from collections.abc import Callable

_EVERY_S = 600.0
"""What is expired goes after at most so long, while anything is written."""
_SHARE_OF_ROOM = 16
_SHARE_OF_BOUND = 256


class SweepSchedule:
    """A sweep is due at the first write, after ten minutes, and when writes may have passed the bound.

    Other processes write too: a sixteenth of the room that was left is taken as this one's share. Past the bound, sweeps are
    a 256th of it apart, so each of n processes may exceed it by so much.
    """

    def __init__(self, max_bytes: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._room = 0
        self._next = -1.0

    def wrote(self, num_bytes: int) -> bool:
        """Note a write; return whether a sweep is due."""
        self._room -= num_bytes
        is_due = self._room < 0 or self._clock() >= self._next
        if is_due:
            self.swept(self._max_bytes)  # writes that end meanwhile do not sweep as well
        return is_due

    def swept(self, total_bytes: int) -> None:
        """Note that a sweep ended with ``total_bytes`` in the store."""
        left = (self._max_bytes - total_bytes) // _SHARE_OF_ROOM
        self._room = max(left, self._max_bytes // _SHARE_OF_BOUND)
        self._next = self._clock() + _EVERY_S
