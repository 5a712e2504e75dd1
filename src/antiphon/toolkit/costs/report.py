"""What a run took: tokens, dollars, seconds, and what the choices made saved."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from antiphon.toolkit.record import CallRecord
from antiphon.toolkit.usage import NO_USAGE, Usage


@dataclass(frozen=True, slots=True)
class ReportStatistics:
    """Sums over the calls of a run.

    ``usage`` and ``usd`` are sums over the calls whose usage or price is known; ``num_unreported`` and ``num_unpriced`` count
    the others. Calls answered from the response cache are in ``num_from_cache`` and not in ``usage`` or ``seconds``.
    """

    num_calls: int
    num_from_cache: int
    num_retries: int
    num_failed_over: int
    num_truncated: int
    usage: Usage
    usd: Decimal
    num_unreported: int
    num_unpriced: int
    seconds: float
    saved_by_response_cache: Decimal
    saved_by_prompt_cache: Decimal
    saved_by_cascade: Decimal
    calls_by_model: tuple[tuple[str, int], ...]


class Report:
    """Collects a record of each call that it is given to (``report=`` of chats and functions). Thread-safe.

    ``str(report)`` is the text to print at the end of a run.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._records: list[CallRecord] = []
        self._saved_by_cascade = Decimal(0)

    @property
    def records(self) -> tuple[CallRecord, ...]:
        with self._lock:
            return tuple(self._records)

    def add(self, record: CallRecord) -> None:
        with self._lock:
            self._records.append(record)

    def add_cascade_saving(self, usd: Decimal) -> None:
        """Note what a cascade saved against asking its last model alone; negative if it cost more."""
        with self._lock:
            self._saved_by_cascade += usd

    def statistics(self) -> ReportStatistics:
        records = self.records
        sent = [record for record in records if not record.from_cache]
        return ReportStatistics(
            num_calls=len(records),
            num_from_cache=len(records) - len(sent),
            num_retries=sum(record.num_retries for record in sent),
            num_failed_over=sum(1 for record in sent if record.failed_over),
            num_truncated=sum(record.finish_reason == "length" for record in sent),
            usage=sum((record.usage for record in sent if record.usage is not None), NO_USAGE),
            usd=_sum(record.cost for record in sent),
            num_unreported=sum(record.usage is None for record in sent),
            num_unpriced=sum(record.cost is None for record in sent),
            seconds=sum(record.timing.total_s for record in sent),
            saved_by_response_cache=_sum(record.saved_by_cache for record in records),
            saved_by_prompt_cache=_sum(record.saved_by_prompt_cache for record in sent),
            saved_by_cascade=self._saved_by_cascade,
            calls_by_model=tuple(sorted(Counter(record.model for record in records).items())),
        )

    def __str__(self) -> str:
        stats = self.statistics()
        usage = stats.usage
        cached = "not told" if usage.cached_tokens is None else str(usage.cached_tokens)
        rows = [
            (
                "calls",
                f"{stats.num_calls} ({', '.join(f'{model} x {count}' for model, count in stats.calls_by_model)})",
            ),
            ("prompt tokens", f"{usage.prompt_tokens} (cached by the server: {cached})"),
            ("completion tokens", str(usage.completion_tokens)),
            (
                "dollars",
                f"{stats.usd:.6f}" + (f" + {stats.num_unpriced} calls of unknown price" * bool(stats.num_unpriced)),
            ),
            ("seconds", f"{stats.seconds:.2f}"),
        ]
        rows.extend(
            (name, f"{count}")
            for name, count in (
                ("answered from the response cache", stats.num_from_cache),
                ("retries", stats.num_retries),
                ("answered by a fallback", stats.num_failed_over),
                ("cut at the token limit", stats.num_truncated),
                ("calls whose usage was not told", stats.num_unreported),
            )
            if count
        )
        rows.extend(
            (f"saved by the {name}", f"{usd:.6f} dollars")
            for name, usd in (
                ("response cache", stats.saved_by_response_cache),
                ("server's prompt cache", stats.saved_by_prompt_cache),
                ("cascade (estimate)", stats.saved_by_cascade),
            )
            if usd
        )
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name.ljust(width)}  {value}" for name, value in rows)


def _sum(values: Iterable[Decimal | None]) -> Decimal:
    return sum((value for value in values if value is not None), Decimal(0))
