"""The rate-limit window of an upstream model, from its headers. Pure; the caller brings the time.

OpenAI sends ``x-ratelimit-remaining-requests`` and ``-tokens`` with ``x-ratelimit-reset-requests`` and ``-tokens``, the time
until the limit is full again, as Go durations (``6m0s``, ``120ms``). Once nothing remains, a request before
some of it has come back is refused, and on some services counts against the limit.
"""

from collections.abc import Mapping

from antiphon.wire.durations import parse_duration
from antiphon.wire.numbers import parse_integer

LIMIT_HEADERS = ("x-ratelimit-remaining-requests", "x-ratelimit-remaining-tokens")
_TOKENS_SHARE = 0.1
"""How much of an empty token bucket is worth waiting for; a request that needs more gets a 429."""

_MAX_WAIT_S = 60.0
"""An upstream is skipped no longer than this at its own request: its limits may have changed."""


class RateLimitWindow:
    """When the next request may go to one upstream model."""

    def __init__(self) -> None:
        self._ready_at = 0.0

    def learn(self, headers: Mapping[str, str], now: float) -> None:
        """Read the headers of an answer; those that are missing or unreadable are ignored."""
        waits = [wait for unit in ("requests", "tokens") if (wait := _exhausted_s(headers, unit)) is not None]
        self._ready_at = now + min(max(waits), _MAX_WAIT_S) if waits else 0.0

    def wait_s(self, now: float) -> float:
        """Return the seconds until a request may go, 0 for now."""
        return max(0.0, self._ready_at - now)


def _exhausted_s(headers: Mapping[str, str], unit: str) -> float | None:
    """Return the seconds until one more request, or the tokens of a common one, are allowed; None if some are left.

    That is a share of the reset time, because the bucket fills steadily.
    """
    remaining = parse_integer(headers.get(f"x-ratelimit-remaining-{unit}"))
    reset_s = parse_duration(headers.get(f"x-ratelimit-reset-{unit}", ""))
    if remaining is None or reset_s is None or remaining > 0:
        return None
    limit = parse_integer(headers.get(f"x-ratelimit-limit-{unit}"))
    if unit == "requests" and limit is not None and limit > 0:
        return reset_s / limit
    return reset_s * _TOKENS_SHARE
