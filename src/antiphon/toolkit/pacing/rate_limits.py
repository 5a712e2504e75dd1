"""What a server says about its limits: the ``x-ratelimit-*`` headers, as a value.

Follows the rate-limit headers of the OpenAI API: integers, and Go durations (``120ms``, ``6m0s``) for the resets.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_UNITS_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|us|µs|ns|h|m|s)")


def parse_duration(text: str) -> float | None:
    """Return a Go duration (``1m30s``) or a plain number in seconds; None when it is neither."""
    parts = _PART.findall(text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        return sum(float(number) * _UNITS_S[unit] for number, unit in parts)
    try:
        return float(text)
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class Allowance:
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

    requests: Allowance | None = None
    tokens: Allowance | None = None

    @classmethod
    def from_headers(cls, headers: Mapping[str, str]) -> RateLimits | None:
        """Read the headers of an answer; None when it carried no usable limit."""
        requests, tokens = _allowance(headers, "requests"), _allowance(headers, "tokens")
        return cls(requests, tokens) if requests or tokens else None


def _allowance(headers: Mapping[str, str], noun: str) -> Allowance | None:
    limit = _integer(headers.get(f"x-ratelimit-limit-{noun}"))
    remaining = _integer(headers.get(f"x-ratelimit-remaining-{noun}"))
    # A proxy that knows no limit sends 0 or -1; neither says how fast one may go.
    if limit is None or limit <= 0 or remaining is None:
        return None
    reset = headers.get(f"x-ratelimit-reset-{noun}")
    return Allowance(limit, remaining, parse_duration(reset) if reset else None)


def _integer(text: str | None) -> int | None:
    try:
        return None if text is None else int(text)
    except ValueError:
        return None
