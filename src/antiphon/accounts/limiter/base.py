"""The contract of a limiter: reserve before the work, settle after it, atomically over all buckets of a request."""

from collections.abc import Sequence
from typing import Literal, Protocol

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

    async def reserve(self, key: str, model: str, limits: Limits, n_tokens: int) -> LimitDecision:
        """Ask for one request of ``n_tokens`` by ``key`` to ``model``; ``n_tokens`` is at most ``limits.tpm``.

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


def charges(limits: Limits, n_tokens: int) -> list[tuple[Scope, int, int]]:
    """List the buckets of a request in the order they are asked: ``(scope, limit, units)``."""
    wanted: list[tuple[Scope, int, int]] = []
    if limits.rpm is not None:
        wanted.append((Scope.REQUESTS, limits.rpm, 1))
    if limits.rpd is not None:
        wanted.append((Scope.REQUESTS_PER_DAY, limits.rpd, 1))
    if limits.tpm is not None:
        wanted.append((Scope.TOKENS, limits.tpm, n_tokens))
    return wanted


def refusal(readings: tuple[Reading, ...], wanted: Sequence[tuple[Scope, int, int]], full: int) -> LimitDecision:
    """Return the refusal by bucket number ``full``; ``wanted`` as ``charges`` lists it."""
    wait_s = max(reading.wait_s(n) for reading, (_, _, n) in zip(readings, wanted, strict=True))
    return LimitDecision(readings, refused_by=readings[full], wait_s=wait_s)
