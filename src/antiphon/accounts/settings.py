"""What an operator can set about keys, limits, prices and the database."""

from typing import Literal
from urllib.parse import urlsplit

import msgspec

_HIGHEST = 2**31 - 1
"""What every database holds as an integer."""

_HIGHEST_PRICE = 1_000_000_000
"""So that no sum of prices overflows."""

Tier = Literal["tier1", "tier2", "tier3", "tier4", "tier5"]


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much one key may ask for, per model; None means unlimited.

    ``rpm``: requests per minute. ``tpm``: tokens per minute. ``rpd``: requests per day. ``concurrency``: requests
    in flight at once, over all models.
    """

    rpm: int | None = None
    tpm: int | None = None
    rpd: int | None = None
    concurrency: int | None = None

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value: int | None = getattr(self, name)
            if value is not None and not 1 <= value <= _HIGHEST:
                raise ValueError(f"{name} must be from 1 to {_HIGHEST}, not {value!r}; leave it out for no limit")

    def over(self, other: "Limits") -> "Limits":
        """Return these limits, with ``other``'s wherever these say nothing."""
        return Limits(
            rpm=other.rpm if self.rpm is None else self.rpm,
            tpm=other.tpm if self.tpm is None else self.tpm,
            rpd=other.rpd if self.rpd is None else self.rpd,
            concurrency=other.concurrency if self.concurrency is None else self.concurrency,
        )


class ModelPrice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Dollars per 1,000,000 tokens. ``cached_input`` is ``input`` when it is left out."""

    input: float
    output: float = 0.0
    cached_input: float | None = None

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value: float | None = getattr(self, name)
            if value is not None and not 0 <= value <= _HIGHEST_PRICE:
                raise ValueError(
                    f"the price {name} must be a number that is not negative and at most {_HIGHEST_PRICE:,}, but is {value!r}"
                )


class AccountSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of accounts; every one has a default that suits one person on one machine."""

    database_url: str | None = None
    """``sqlite:///path`` or ``postgresql://user:password@host/name``; None: ``antiphon.db`` in the home folder."""

    key_secret_file: str | None = None
    """The file with the secret that keys are hashed with; None: ``key-secret`` in the home folder, made at first use.
    Servers that share a database share this file."""

    redis_url: str | None = None
    """``redis://host:6379/0``: where several servers share their limits; None: each process counts for itself."""

    redis_away: Literal["refuse", "admit"] = "refuse"
    """While Redis does not answer: refuse every limited request with a 503, or admit it uncounted."""

    organization: str = "org-antiphon"
    """The name in ``openai-organization`` and in the texts of 429s."""

    tier: Tier | None = None
    """OpenAI's own limits of that usage tier, by model; None: no limits but those below."""

    rpm: int | None = None
    """Requests per minute of each key and model; goes before the tier's, and a key's own goes before it."""

    tpm: int | None = None
    """Tokens per minute of each key and model."""

    rpd: int | None = None
    """Requests per day of each key and model."""

    concurrency: int | None = None
    """Requests in flight of each key."""

    prices: dict[str, ModelPrice] = {}
    """Your own prices, by the name of the model that answers, or else of the one that was asked for."""

    price_provider: str | None = "openai"
    """Whose public prices (a provider of the package ``genai-prices``) hold for models that ``prices`` does not name;
    None, or the word ``none``: no public prices. A model without a price costs None, which is not 0."""

    def __post_init__(self) -> None:
        _ = self.limits
        if self.redis_url is not None and urlsplit(self.redis_url).scheme not in {"redis", "rediss", "unix"}:
            raise ValueError("redis_url must be a redis://, rediss:// or unix:// address")
        if self.redis_away != "refuse" and self.redis_url is None:
            raise ValueError("redis_away says what to do without a Redis that redis_url does not name")
        if self.price_provider not in {None, "none", "openai"}:
            # A fifth of a second to import; the default needs no look.
            from genai_prices.data import providers  # noqa: PLC0415

            known = sorted(provider.id for provider in providers)
            if self.price_provider not in known:
                raise ValueError(f"price_provider {self.price_provider!r} is none of: none, {', '.join(known)}")

    @property
    def limits(self) -> Limits:
        """The four numbers above as one value."""
        return Limits(rpm=self.rpm, tpm=self.tpm, rpd=self.rpd, concurrency=self.concurrency)
