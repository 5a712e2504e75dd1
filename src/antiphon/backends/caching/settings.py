"""Section ``[cache]``: the response cache."""

import math
from typing import Literal
from urllib.parse import urlsplit

import msgspec


class CacheSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Answers are stored for requests that ask for it, and only where the same answer is right: see ``backends.caching``.

    ``store``: ``none`` stores nothing; ``memory`` is lost when the server stops; ``disk`` is a file in the home folder; ``redis`` is
    shared by several servers. ``max_bytes`` bounds memory and disk. ``ttl_s``: how long a stored answer is used. ``scope``: ``key``
    keeps each API key's answers to itself, ``server`` shares them among all keys, which then can infer from response times
    whether another key sent the same request before. ``keys`` are names of API keys (``*``: all) that use the cache without the header.
    """

    store: Literal["none", "memory", "disk", "redis"] = "none"
    max_bytes: int = 256 * 1024 * 1024
    ttl_s: float = 24 * 3600
    scope: Literal["key", "server"] = "key"
    keys: tuple[str, ...] = ()
    redis_url: str = "redis://127.0.0.1:6379/0"

    def __post_init__(self) -> None:
        if self.max_bytes < 1 or not 0 < self.ttl_s < math.inf:
            raise ValueError("max_bytes and ttl_s must be positive")
        if self.store == "redis" and urlsplit(self.redis_url).scheme not in {"redis", "rediss", "unix"}:
            raise ValueError("redis_url must be a redis://, rediss:// or unix:// address")
