"""Whether a request may be answered by the response cache."""

import msgspec


class CacheUse(msgspec.Struct, frozen=True):
    """Answers are shared within ``scope``. ``refresh``: compute anew and replace what is kept."""

    scope: str
    refresh: bool = False
