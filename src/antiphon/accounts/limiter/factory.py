"""Which limiter the settings ask for."""

from antiphon.accounts.errors import AccountError
from antiphon.accounts.limiter.base import Limiter
from antiphon.accounts.limiter.memory import MemoryLimiter
from antiphon.accounts.settings import AccountSettings


def make_limiter(settings: AccountSettings) -> Limiter:
    """Return the limiter: shared through ``settings.redis_url``, or this process' own. Needs a running event loop.

    Raises ``AccountError`` when the Redis client is not installed; a Redis that does not answer is handled per request.
    """
    if settings.redis_url is None:
        return MemoryLimiter()
    try:
        from antiphon.accounts.limiter.redis import RedisLimiter  # noqa: PLC0415 - only with the extra [redis]
    except ModuleNotFoundError as error:
        raise AccountError(
            "Sharing limits needs the Redis client, which is not installed", hint="pip install 'antiphon[redis]'"
        ) from error
    return RedisLimiter(settings.redis_url, settings.redis_away)
