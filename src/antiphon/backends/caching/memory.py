"""A store in memory."""

import time
from collections import OrderedDict
from collections.abc import Callable

from antiphon.backends.caching.base import StoreStatistics

_OVERHEAD = 200
"""The approximate overhead of an entry in bytes, in addition to its value."""


class MemoryStore:
    """Stores at most ``max_bytes``; the least recently used values are evicted first. ``now`` is a monotonic clock in seconds."""

    def __init__(self, max_bytes: int, ttl_s: float, now: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self._now = now
        self._entries: OrderedDict[bytes, tuple[float, bytes]] = OrderedDict()
        self._bytes = 0

    async def get(self, key: bytes) -> bytes | None:
        found = self._entries.get(key)
        if found is None:
            return None
        expires_at, value = found
        if expires_at <= self._now():
            self._remove(key)
            return None
        self._entries.move_to_end(key)
        return value

    async def put(self, key: bytes, value: bytes) -> None:
        if key in self._entries:
            self._remove(key)
        if len(value) + _OVERHEAD > self._max_bytes:
            return
        self._entries[key] = (self._now() + self._ttl_s, value)
        self._bytes += len(value) + _OVERHEAD
        while self._bytes > self._max_bytes:
            self._remove(next(iter(self._entries)))

    def statistics(self) -> StoreStatistics:
        return StoreStatistics(len(self._entries), self._bytes)

    async def aclose(self) -> None:
        self._entries.clear()
        self._bytes = 0

    def _remove(self, key: bytes) -> None:
        _, value = self._entries.pop(key)
        self._bytes -= len(value) + _OVERHEAD
