"""What a server says about its limits: the ``x-ratelimit-*`` headers, as a value.

Follows the rate-limit headers of the OpenAI API: integers, and Go durations (``120ms``, ``6m0s``) for the resets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from antiphon.wire.durations import parse_duration
from antiphon.wire.numbers import parse_integer


@dataclass(frozen=True, slots=True)
class RateLimit:
    """One limit per minute and what was left of it when the server answered. ``reset_s``: until it is full again."""

    limit: int
    remaining: int
    reset_s: float | None = None

    @property
    def used(self) -> int:
        return self.limit - self.remaining


@dataclass(frozen=True, slots=True)
class RateLimits:
    """The server's limits as one answer told them; a dimension it did not mention is None."""

    requests: RateLimit | None = None
    tokens: RateLimit | None = None

    @classmethod
    def from_headers(cls, headers: Mapping[str, str]) -> RateLimits | None:
        """Read the headers of an answer; None when it carried no usable limit."""
        requests, tokens = _rate_limit(headers, "requests"), _rate_limit(headers, "tokens")
        return cls(requests, tokens) if requests or tokens else None


def _rate_limit(headers: Mapping[str, str], noun: str) -> RateLimit | None:
    limit = parse_integer(headers.get(f"x-ratelimit-limit-{noun}"))
    remaining = parse_integer(headers.get(f"x-ratelimit-remaining-{noun}"))
    # A proxy that knows no limit sends 0 or -1; neither says how fast one may go.
    if limit is None or limit <= 0 or remaining is None:
        return None
    reset = headers.get(f"x-ratelimit-reset-{noun}")
    return RateLimit(limit, remaining, parse_duration(reset) if reset else None)
