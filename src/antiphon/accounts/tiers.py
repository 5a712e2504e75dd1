"""OpenAI's usage tiers: requests and tokens per minute, by model family (read 2026-11-23)."""

from antiphon.accounts.settings import Limits, Tier

_LARGE: dict[Tier, Limits] = {
    "tier1": Limits(rpm=500, tpm=30_000),
    "tier2": Limits(rpm=5_000, tpm=450_000),
    "tier3": Limits(rpm=5_000, tpm=800_000),
    "tier4": Limits(rpm=10_000, tpm=2_000_000),
    "tier5": Limits(rpm=10_000, tpm=30_000_000),
}
_SMALL: dict[Tier, Limits] = {
    "tier1": Limits(rpm=500, tpm=200_000),
    "tier2": Limits(rpm=5_000, tpm=2_000_000),
    "tier3": Limits(rpm=5_000, tpm=4_000_000),
    "tier4": Limits(rpm=10_000, tpm=10_000_000),
    "tier5": Limits(rpm=30_000, tpm=150_000_000),
}
_EMBEDDING: dict[Tier, Limits] = {
    "tier1": Limits(rpm=3_000, tpm=1_000_000),
    "tier2": Limits(rpm=5_000, tpm=1_000_000),
    "tier3": Limits(rpm=5_000, tpm=5_000_000),
    "tier4": Limits(rpm=10_000, tpm=5_000_000),
    "tier5": Limits(rpm=10_000, tpm=10_000_000),
}


def tier_limits(tier: Tier, model: str, *, is_embedding: bool) -> Limits:
    """Return the limits of ``model`` in ``tier``.

    The embedding row for embeddings and ranking, the row of gpt-4o-mini for OpenAI's small models (``gpt-*-mini``, ``gpt-*-nano``), the row
    of gpt-4o, the strictest, for all others, local ones included.
    """
    if is_embedding:
        return _EMBEDDING[tier]
    if model.startswith("gpt-") and ("-mini" in model or "-nano" in model):
        return _SMALL[tier]
    return _LARGE[tier]
