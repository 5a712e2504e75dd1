"""What a bucket says about itself: the numbers behind the rate-limit headers and the 429 texts."""

import math
from enum import Enum
from typing import Literal

import msgspec

from antiphon.wire.durations import format_duration


class Scope(Enum):
    """What is counted, over how long. ``label`` names its buckets in Redis.

    ``kind`` is the ``type`` of a 429 and the last word of the headers, ``title`` how a 429 calls it.
    """

    REQUESTS = "rpm", 60.0, "requests", "requests per min (RPM)"
    REQUESTS_PER_DAY = "rpd", 86_400.0, "requests", "requests per day (RPD)"
    TOKENS = "tpm", 60.0, "tokens", "tokens per min (TPM)"

    def __init__(self, label: str, period_s: float, kind: Literal["requests", "tokens"], title: str) -> None:
        self.label = label
        self.period_s = period_s
        self.kind: Literal["requests", "tokens"] = kind
        self.title = title
        self.header_names = tuple(f"x-ratelimit-{what}-{kind}" for what in ("limit", "remaining", "reset"))


class Reading(msgspec.Struct, frozen=True, gc=False):
    """One bucket at one moment.

    ``used`` is what has not drained yet, in requests or tokens; it may exceed ``limit`` when a request turned out larger
    than its reservation.
    """

    scope: Scope
    limit: int
    used: float

    @property
    def remaining(self) -> int:
        """Whole units that fit now; 0 when the bucket is over its limit."""
        return max(0, math.floor(self.limit - self.used))

    @property
    def reset_s(self) -> float:
        """Seconds until nothing is used, from the integers that the headers show, as OpenAI does."""
        return (self.limit - self.remaining) * self.scope.period_s / self.limit

    def wait_s(self, requested: int, ceiling: int | None = None) -> float:
        """Seconds until ``requested`` more fit below ``ceiling``, by default the limit; 0 when they do now."""
        highest = self.limit if ceiling is None else ceiling
        return max(0.0, (self.used + requested - highest) * self.scope.period_s / self.limit)

    def headers(self) -> dict[str, str]:
        """The three ``x-ratelimit-*`` headers of this bucket."""
        limit, remaining, reset = self.scope.header_names
        return {limit: str(self.limit), remaining: str(self.remaining), reset: format_duration(self.reset_s)}
