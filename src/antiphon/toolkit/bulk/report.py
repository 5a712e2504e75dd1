"""How a run stands, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from antiphon.toolkit.pacing.pacer import PacerStatistics
from antiphon.toolkit.usage import Usage


@dataclass(frozen=True, slots=True)
class BulkStatistics:
    """A moment of a run. ``cost`` is None when unknown.

    ``num_pending`` requests are in batches that the server has not answered yet. ``num_resumed`` requests have their line from an earlier run; of these ``num_failed_before`` are failures.
    """

    num_requests: int
    num_resumed: int
    num_failed_before: int
    num_succeeded: int
    num_failed: int
    num_retries: int
    usage: Usage
    cost: Decimal | None
    seconds: float
    pacer: PacerStatistics
    num_pending: int = 0

    @property
    def num_done(self) -> int:
        return self.num_resumed + self.num_succeeded + self.num_failed

    @property
    def requests_per_minute(self) -> float | None:
        """The rate of this run; None in its first moment."""
        return (self.num_succeeded + self.num_failed) * 60 / self.seconds if self.seconds > 0 else None

    @property
    def seconds_left(self) -> float | None:
        """How long the rest takes at this rate; None before the first answer."""
        rate = self.requests_per_minute
        return (self.num_requests - self.num_done) * 60 / rate if rate else None


@dataclass(frozen=True, slots=True)
class BulkReport:
    """The end of a run: every request that is not pending has one line in ``out``. Usage, cost and seconds are this run's."""

    out: Path
    statistics: BulkStatistics

    @property
    def is_ok(self) -> bool:
        """Whether every line is an answer, those of earlier runs included."""
        return self.statistics.num_failed + self.statistics.num_failed_before == 0

    @property
    def is_pending(self) -> bool:
        """Whether batches are under way, whose answers the same call takes later."""
        return self.statistics.num_pending > 0
