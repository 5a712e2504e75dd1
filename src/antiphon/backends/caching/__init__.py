"""The response cache: stores answers that would be the same again, for requests that ask for it.

Right for requests with temperature 0 or a seed, and for embeddings; identical concurrent requests are computed once (single-flight).
"""

from pathlib import Path

from antiphon.backends.caching.backend import CachingBackend
from antiphon.backends.caching.base import Store
from antiphon.backends.caching.disk import DiskStore
from antiphon.backends.caching.memory import MemoryStore
from antiphon.backends.caching.settings import CacheSettings
from antiphon.backends.caching.use import HEADER, cache_use
from antiphon.errors import ConfigError

__all__ = ["HEADER", "CacheSettings", "CachingBackend", "Store", "cache_use", "make_store"]


def make_store(settings: CacheSettings, home: Path) -> Store | None:
    """Return the store that the settings name; None for ``none``. ``ConfigError`` if its client is not installed."""
    if settings.store == "memory":
        return MemoryStore(settings.max_bytes, settings.ttl_s)
    if settings.store == "disk":
        return DiskStore(home / "answers.sqlite3", settings.max_bytes, settings.ttl_s)
    if settings.store == "redis":
        try:
            from antiphon.backends.caching.shared import RedisStore  # noqa: PLC0415 - only with the extra [redis]
        except ModuleNotFoundError as error:
            raise ConfigError(
                "[cache] store = 'redis' needs the Redis client, which is not installed",
                hint="pip install 'antiphon[redis]'",
            ) from error
        return RedisStore(settings.redis_url, settings.ttl_s)
    return None
