"""Whether a request uses the cache: its header, then its key's name. Pure."""

from fnmatch import fnmatchcase

from antiphon.backends.caching.settings import CacheSettings
from antiphon.protocol.caching import CacheUse
from antiphon.protocol.errors import ApiError

HEADER = "x-antiphon-cache"
"""On requests: ``on``, ``off`` or ``refresh``. On answers: ``miss``, ``hit`` or ``joined``; absent where nothing is stored."""


def cache_use(settings: CacheSettings, header: str | None, account: str, key_name: str) -> CacheUse | None:
    """Return how a request of ``account`` (whose key is named ``key_name``) uses the cache; None: not at all.

    ``ApiError`` 400 for a header with another value, or one that asks for a cache this server does not have.
    """
    if header is None:
        asked = "on" if any(fnmatchcase(key_name, pattern) for pattern in settings.keys) else "off"
    else:
        asked = header.strip().lower()
        if asked not in {"on", "off", "refresh"}:
            raise ApiError(
                400, f"Invalid value for the header '{HEADER}': {header!r}. Supported: 'on', 'off', 'refresh'."
            )
        if settings.store == "none" and asked != "off":
            raise ApiError(400, f"The header '{HEADER}' asks for a response cache, which this server does not have.")
    if asked == "off" or settings.store == "none":
        return None
    return CacheUse(account if settings.scope == "key" else "", refresh=asked == "refresh")
