"""The contract of a limiter: reserve before the work, settle after it, atomically over all buckets of a request."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import msgspec

from antiphon.accounts.reading import Reading, Scope
from antiphon.accounts.settings import Limits

TOLERANCE_USD = 1e-9
"""A sum of floats may end a hair below what it should; a billionth of a dollar is not a budget."""

CONCURRENCY: Literal["concurrency"] = "concurrency"


class Reservation(Protocol):
    """What one admitted request holds."""

    def settle(self, n_tokens: int) -> None:
        """Correct the tokens to what was really used and free the slot. Call once; never waits."""
        ...


class BudgetHold(Protocol):
    """The estimated dollars of one request in flight."""

    def release(self, usd: float) -> None:
        """Give the estimate back; ``usd`` is what the request cost. Call once; never waits."""
        ...


class LimitDecision(msgspec.Struct, frozen=True):
    """Admitted when ``reservation`` is there; else ``refused_by`` says why.

    ``readings`` are the buckets after this decision, those that have a limit. ``wait_s``: after how many seconds
    the same request finds room in every bucket, if no other request comes.
    """

    readings: tuple[Reading, ...]
    reservation: Reservation | None = None
    refused_by: Reading | Literal["concurrency"] | None = None
    wait_s: float = 0.0

    def headers(self) -> dict[str, str]:
        """The ``x-ratelimit-*`` headers: three for requests per minute, three for tokens, where there is a limit.

        Requests per day show only where there is no limit per minute: the headers have one place for both.
        """
        headers: dict[str, str] = {}
        for reading in self.readings:
            if reading.scope is not Scope.REQUESTS_PER_DAY or "x-ratelimit-limit-requests" not in headers:
                headers |= reading.headers()
        return headers


class LimiterStatistics(msgspec.Struct, frozen=True):
    """Counts since the start; ``buckets`` and ``in_flight`` are current numbers.

    ``uncounted_total``: admitted without a limit because Redis was away; ``unsettled_total``: corrections lost to it
    (the reservation then remains, and leaks away in its time).
    """

    admitted_total: int = 0
    refused_total: int = 0
    in_flight: int = 0
    buckets: int | None = None
    uncounted_total: int = 0
    unsettled_total: int = 0


class Limiter(Protocol):
    """Counts what accounts ask for.

    Rules that every implementation keeps: concurrency is looked at first and, when full, nothing is charged. Then
    requests per minute, requests per day, tokens; the first without room refuses. A request that is refused for
    its tokens alone is charged as a request (a failed request counts); one refused for requests is not, else the
    reported wait would be wrong.
    """

    async def reserve(
        self, key: str, model: str, limits: Limits, n_tokens: int, *, yields: bool = False
    ) -> LimitDecision:
        """Ask for one request of ``n_tokens`` by ``key`` to ``model``; ``n_tokens`` is at most ``limits.tpm``.

        ``yields``: work in the background, which leaves room to requests. It is admitted while each bucket stays at most half
        full, or is empty; it takes no place of those in flight; and it is charged nothing when it is refused.

        Raises ``ApiError`` 503 when the store of the limits does not answer and the settings say to refuse.
        """
        ...

    async def hold(self, key: str, usd: float, left_usd: float) -> BudgetHold | None:
        """Hold ``usd`` of the dollars that ``key`` has left; None where its requests in flight leave too little.

        A request that is alone in flight is admitted whatever it may cost: otherwise a cautious estimate would make the
        last cents of a budget unusable. The caller has counted every hold that was released before in ``left_usd``.

        Raises ``ApiError`` 503 as ``reserve`` does.
        """
        ...

    def statistics(self) -> LimiterStatistics:
        """Return counts, without waiting."""
        ...

    async def aclose(self) -> None:
        """Finish what was settled; idempotent."""
        ...


class Charge(NamedTuple):
    """What a request pours into one bucket of ``limit`` units: ``units``, if the bucket then holds at most ``ceiling``."""

    scope: Scope
    limit: int
    units: int
    ceiling: int


def charges(limits: Limits, n_tokens: int, *, yields: bool = False) -> list[Charge]:
    """List the charges of a request in the order in which the buckets are asked; ``yields`` as for ``reserve``."""
    wanted: list[Charge] = []
    for scope, limit, units in (
        (Scope.REQUESTS, limits.rpm, 1),
        (Scope.REQUESTS_PER_DAY, limits.rpd, 1),
        (Scope.TOKENS, limits.tpm, n_tokens),
    ):
        if limit is not None:
            # What is larger than half of the limit passes when nothing else is in the bucket: else it never would.
            wanted.append(Charge(scope, limit, units, max(limit // 2, units) if yields else limit))
    return wanted


def refusal(readings: tuple[Reading, ...], wanted: Sequence[Charge], full: int) -> LimitDecision:
    """Return the refusal by bucket number ``full``; ``wanted`` as ``charges`` lists it."""
    waits = (reading.wait_s(one.units, one.ceiling) for reading, one in zip(readings, wanted, strict=True))
    return LimitDecision(readings, refused_by=readings[full], wait_s=max(waits))
