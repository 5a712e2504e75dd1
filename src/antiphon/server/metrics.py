"""The server's metrics in Prometheus' text format, built from the parts' immutable statistics.

With several workers (``PROMETHEUS_MULTIPROC_DIR`` is set for them) the worker that is scraped answers for all: requests are
added up, and each worker's own numbers - connections to upstreams, its part of the ledger - have the label ``worker``.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Protocol, cast, runtime_checkable

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from antiphon.accounts.accounts import AccountStatistics
from antiphon.backends.base import PartStatistics
from antiphon.server.metric_help import help_text

CONTENT_TYPE = b"text/plain; version=1.0.0; charset=utf-8"
_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


_IS_WORKER = "PROMETHEUS_MULTIPROC_DIR" in os.environ
_OWN = {"worker": str(os.getpid())} if _IS_WORKER else {}


class Metrics:
    """Counts requests, and reads the statistics of backends and accounts when it is scraped."""

    def __init__(
        self,
        backend_statistics: Callable[[], Sequence[PartStatistics]],
        account_statistics: Callable[[], AccountStatistics],
    ) -> None:
        self._live = _Live(backend_statistics, account_statistics)
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "antiphon_requests", "HTTP requests, by path and status", ["path", "status"], registry=self._registry
        )
        self._durations = Histogram(
            "antiphon_request_seconds",
            "Seconds from a request's arrival to the end of its answer",
            ["path"],
            buckets=_BUCKETS_S,
            registry=self._registry,
        )
        # Written as it changes: the worker that is scraped reads what the others wrote last.
        self.in_flight = Gauge(
            "antiphon_in_flight",
            "Requests that a model is working on",
            multiprocess_mode="livesum",
            registry=self._registry,
        )
        self._registry.register(self._live)

    def observe_request(self, path: str, status: int, duration_s: float) -> None:
        """Count one request that is over."""
        self._requests.labels(path, str(status)).inc()
        self._durations.labels(path).observe(duration_s)

    def render(self) -> bytes:
        """Return the text form of everything."""
        if not _IS_WORKER:
            return generate_latest(self._registry)
        everyone = CollectorRegistry()
        multiprocess.MultiProcessCollector(everyone)  # pyright: ignore[reportUnknownMemberType] - untyped there
        everyone.register(self._live)
        return generate_latest(everyone)


class _Live:
    """Reads the statistics of every part at the moment of a scrape."""

    def __init__(
        self,
        backend_statistics: Callable[[], Sequence[PartStatistics]],
        account_statistics: Callable[[], AccountStatistics],
    ) -> None:
        self._backend_statistics = backend_statistics
        self._account_statistics = account_statistics

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for part in self._backend_statistics():
            for name, value in msgspec.structs.asdict(part.values).items():
                labels = part.labels if part.part == "engine" else {**part.labels, **_OWN}
                _add(families, f"antiphon_{part.part}_{name}", labels, value)
        accounts = self._account_statistics()
        for part, values in (("limiter", accounts.limiter), ("ledger", accounts.ledger)):
            for name, value in msgspec.structs.asdict(values).items():
                _add(families, f"antiphon_{part}_{name}", _OWN, value)
        yield from families.values()


def _add(families: dict[str, Metric], name: str, labels: dict[str, str], value: object) -> None:
    names, texts = list(labels), list(labels.values())
    if isinstance(value, bool | int | float):
        if name.endswith("_total"):
            counter = families.setdefault(
                name, CounterMetricFamily(name.removesuffix("_total"), help_text(name), labels=names)
            )
            cast("CounterMetricFamily", counter).add_metric(texts, float(value))
        else:
            gauge = families.setdefault(name, GaugeMetricFamily(name, help_text(name), labels=names))
            cast("GaugeMetricFamily", gauge).add_metric(texts, float(value))
    elif isinstance(value, HistogramValue):
        family = families.setdefault(name, HistogramMetricFamily(name, help_text(name), labels=names))
        cast("HistogramMetricFamily", family).add_metric(texts, _cumulative(value), value.total)


def _cumulative(value: "HistogramValue") -> list[tuple[str, float]]:
    bounds = [*(str(bound) for bound in value.bounds), "+Inf"]
    return list(zip(bounds, accumulate(map(float, value.counts)), strict=True))


@runtime_checkable
class HistogramValue(Protocol):
    """A histogram in a part's statistics: ``counts[i]`` values up to ``bounds[i]``, the last one beyond all; ``total`` is their sum."""

    @property
    def bounds(self) -> Sequence[float]: ...
    @property
    def counts(self) -> Sequence[int]: ...
    @property
    def total(self) -> float: ...
