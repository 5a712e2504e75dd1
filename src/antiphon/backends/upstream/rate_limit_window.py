"""What an upstream's rate-limit headers leave us. Pure; the caller brings the time.

OpenAI sends ``x-ratelimit-remaining-requests`` and ``-tokens`` with ``x-ratelimit-reset-requests`` and ``-tokens``, the time
until the limit is whole again, as Go writes durations (``6m0s``, ``120ms``). Once nothing remains, asking again before
some of it has come back costs a refusal, and on some services counts against the limit.
"""

import re
from collections.abc import Mapping

_PART = re.compile(r"(\d+(?:\.\d+)?)(h|ms|m|s|us|µs|ns)")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}

_TOKENS_SHARE = 0.1
"""How much of an empty token bucket is worth waiting for; a request that needs more is told so with a 429."""


def duration_s(text: str) -> float | None:
    """Read a Go duration in seconds; None if it is none."""
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


class RateLimitWindow:
    """When the next request may go to one upstream model."""

    def __init__(self) -> None:
        self._ready_at = 0.0

    def learn(self, headers: Mapping[str, str], now: float) -> None:
        """Take in the headers of an answer; those that are missing or unreadable teach nothing."""
        waits = [wait for unit in ("requests", "tokens") if (wait := _exhausted_s(headers, unit)) is not None]
        self._ready_at = now + max(waits) if waits else 0.0

    def wait_s(self, now: float) -> float:
        """Return the seconds until a request may go, 0 for now."""
        return max(0.0, self._ready_at - now)


def _exhausted_s(headers: Mapping[str, str], unit: str) -> float | None:
    """Until one more request, or the tokens of a common one, are allowed: a share, because the bucket fills steadily."""
    remaining, reset = headers.get(f"x-ratelimit-remaining-{unit}"), headers.get(f"x-ratelimit-reset-{unit}")
    if remaining is None or reset is None or not remaining.isdigit() or int(remaining) > 0:
        return None
    whole_s = duration_s(reset)
    limit = headers.get(f"x-ratelimit-limit-{unit}", "")
    if whole_s is None:
        return None
    if unit == "requests" and limit.isdigit() and int(limit) > 0:
        return whole_s / int(limit)
    return whole_s * _TOKENS_SHARE
