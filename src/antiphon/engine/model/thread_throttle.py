"""Reduces the number of compute threads under CPU contention. Pure: times are given.

ggml's threads wait for each other at the end of every operation. If another process keeps a core busy and there are as
many threads as cores, one thread is always late and all wait for it. One thread fewer is then faster.
"""

from collections.abc import Callable
from typing import Final

_CONTENDED_BELOW: Final = 0.72
"""Share of the wall time for which the threads were running."""
_MEMORY: Final = 0.8
_PROBE_STEPS: Final = 6
_FIRST_HOLD_S: Final = 0.4
_LAST_HOLD_S: Final = 4.0


class ThreadThrottle:
    """Chooses between ``threads`` and one fewer: goes down when threads are kept waiting, and tries again later.

    Each change is passed to ``set_threads``. The pause before a new try doubles from 0.4 to 4 seconds while the machine
    stays busy.
    """

    __slots__ = ("_hold_s", "_num_steps", "_set_threads", "_share", "_threads", "_until", "threads")

    def __init__(self, threads: int, set_threads: Callable[[int], None]) -> None:
        self._threads = threads
        self._set_threads = set_threads
        self.threads = threads
        self._share = 1.0
        self._num_steps = 0
        self._hold_s = _FIRST_HOLD_S
        self._until = 0.0

    def observe(self, wall_s: float, cpu_s: float, now: float) -> int:
        """Take the wall and processor seconds of a step that ended at ``now``, in seconds; return the threads of the next one."""
        if self._threads == 1:
            return 1
        if self.threads < self._threads:
            if now >= self._until:
                self._share, self._num_steps = 1.0, 0
                self._change(self._threads)
            return self.threads
        self._share = _MEMORY * self._share + (1 - _MEMORY) * min(1.0, cpu_s / (wall_s * self._threads))
        self._num_steps += 1
        if self._share < _CONTENDED_BELOW:
            soon = self._num_steps <= 2 * _PROBE_STEPS
            self._hold_s = min(2 * self._hold_s, _LAST_HOLD_S) if soon else _FIRST_HOLD_S
            self._until = now + self._hold_s
            self._change(self._threads - 1)
        return self.threads

    def _change(self, threads: int) -> None:
        self.threads = threads
        self._set_threads(threads)
