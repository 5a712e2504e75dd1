"""A store in Redis, for several servers together. Redis itself bounds its memory (``maxmemory``, ``allkeys-lru``)."""

import time
from collections.abc import Callable
from typing import Any, cast

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from antiphon.backends.caching.base import StoreStatistics

_ANSWER_S = 2.0
_ASK_AGAIN_S = 1.0


class RedisStore:
    """While Redis does not answer, nothing is found, and it is tried at most once a second. ``now`` is monotonic, in seconds."""

    def __init__(self, url: str, ttl_s: float, now: Callable[[], float] = time.monotonic) -> None:
        # Redis' own annotations leave most arguments and answers open.
        self._redis: Any = cast("Any", Redis).from_url(
            url, socket_timeout=_ANSWER_S, socket_connect_timeout=_ANSWER_S, retry=Retry(NoBackoff(), 0)
        )
        self._ttl_ms = round(ttl_s * 1000)
        self._now = now
        self._away_until = 0.0
        self._num_errors = 0

    async def get(self, key: bytes) -> bytes | None:
        if self._now() < self._away_until:
            return None
        try:
            return await self._redis.get(_PREFIX + key)
        except (RedisError, OSError, TimeoutError):
            self._failed()
            return None

    async def put(self, key: bytes, value: bytes) -> None:
        if self._now() < self._away_until:
            return
        try:
            await self._redis.set(_PREFIX + key, value, px=self._ttl_ms)
        except (RedisError, OSError, TimeoutError):
            self._failed()

    def statistics(self) -> StoreStatistics:
        return StoreStatistics(None, None, self._num_errors)

    async def aclose(self) -> None:
        await self._redis.aclose()

    def _failed(self) -> None:
        self._num_errors += 1
        self._away_until = self._now() + _ASK_AGAIN_S


_PREFIX = b"antiphon:answer:"
