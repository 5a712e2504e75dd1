"""OpenAI's usage tiers, known by the limits that an answer tells."""

from __future__ import annotations

from antiphon.toolkit.pacing.rate_limits import RateLimits

# Requests and tokens per minute, tiers 1 to 5.
_TIERS: dict[str, tuple[tuple[int, int], ...]] = {
    "gpt-4o-mini": (
        (500, 200_000),
        (5_000, 2_000_000),
        (5_000, 4_000_000),
        (10_000, 10_000_000),
        (30_000, 150_000_000),
    ),
    "gpt-4o": ((500, 30_000), (5_000, 450_000), (5_000, 800_000), (10_000, 2_000_000), (10_000, 30_000_000)),
    "text-embedding-3": (
        (3_000, 1_000_000),
        (5_000, 1_000_000),
        (5_000, 5_000_000),
        (10_000, 5_000_000),
        (10_000, 10_000_000),
    ),
}


def tier_of(told: RateLimits, model: str) -> int | None:
    """Return the tier that has these limits for ``model``, or None when none has exactly these."""
    if told.requests is None or told.tokens is None:
        return None
    limits = (told.requests.limit, told.tokens.limit)
    # The longest name first: gpt-4o-mini also begins with gpt-4o.
    name = next((name for name in sorted(_TIERS, key=len, reverse=True) if model.startswith(name)), None)
    tiers = _TIERS.get(name or "", ())
    return tiers.index(limits) + 1 if limits in tiers else None
