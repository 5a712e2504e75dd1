"""Reading the x-ratelimit headers."""

from __future__ import annotations

import pytest

from antiphon.toolkit.pacing.rate_limits import RateLimit, RateLimits


def test_headers_become_a_value() -> None:
    """Both dimensions, with what was used."""
    told = RateLimits.from_headers(
        {
            "x-ratelimit-limit-requests": "60",
            "x-ratelimit-remaining-requests": "59",
            "x-ratelimit-reset-requests": "1s",
            "x-ratelimit-limit-tokens": "150000",
            "x-ratelimit-remaining-tokens": "149984",
        }
    )
    assert told == RateLimits(RateLimit(60, 59, 1.0), RateLimit(150_000, 149_984))
    assert told.tokens is not None
    assert told.tokens.used == 16


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-ratelimit-limit-requests": "0", "x-ratelimit-remaining-requests": "0"},
        {"x-ratelimit-limit-tokens": "many"},
    ],
)
def test_no_usable_header_is_none(headers: dict[str, str]) -> None:
    """A server without limits, and a proxy that sends zeros, tell nothing."""
    assert RateLimits.from_headers(headers) is None
