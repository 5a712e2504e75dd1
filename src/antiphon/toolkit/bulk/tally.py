"""What a run has done so far: counts, tokens, dollars; and who is shown it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from decimal import Decimal

from antiphon.toolkit.bulk.batchfile import Result
from antiphon.toolkit.bulk.report import BulkStatistics
from antiphon.toolkit.pacing.pace import Pace
from antiphon.toolkit.usage import NO_USAGE, Usage

OnProgress = Callable[[BulkStatistics], None]
# A picture for people: showing every answer would slow a fast run.
SHOW_EVERY_S = 0.1


class Tally:
    """The sums of one run while it lasts; ``on_change`` is called with them, but not too often."""

    def __init__(self, pace: Pace) -> None:
        self.num_requests = self.num_resumed = self.num_failed_before = self.num_pending = 0
        self.on_change: list[OnProgress] = []
        self._pace = pace
        self._counts: Counter[str] = Counter()
        self._usage = NO_USAGE
        self._cost: Decimal | None = Decimal(0)
        self._begun = time.monotonic()
        self._shown_at = 0.0

    def retried(self, num_retries: int) -> None:
        self._counts["retries"] += num_retries

    def spent(self, usage: Usage | None, cost: Decimal | None) -> None:
        """Add what an answer took; ``usage`` None (it did not tell) adds nothing."""
        if usage is not None:
            self._usage += usage
            self._cost = None if self._cost is None or cost is None else self._cost + cost

    def finished(self, result: Result) -> None:
        """Count a request that has its line."""
        self._counts["succeeded" if result.is_ok else "failed"] += 1
        now = time.monotonic()
        is_last = self.num_resumed + self._counts["succeeded"] + self._counts["failed"] == self.num_requests
        if is_last or now - self._shown_at >= SHOW_EVERY_S:
            self._shown_at = now
            for notify in self.on_change:
                notify(self.statistics())

    def statistics(self) -> BulkStatistics:
        return BulkStatistics(
            num_requests=self.num_requests,
            num_resumed=self.num_resumed,
            num_failed_before=self.num_failed_before,
            num_succeeded=self._counts["succeeded"],
            num_failed=self._counts["failed"],
            num_retries=self._counts["retries"],
            usage=self._usage,
            cost=self._cost,
            num_pending=self.num_pending,
            seconds=time.monotonic() - self._begun,
            pacer=self._pace.statistics(),
        )
