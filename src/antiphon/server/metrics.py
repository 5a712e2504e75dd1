"""``GET /metrics`` in Prometheus' text format, built from the parts' immutable statistics.

With several workers (``PROMETHEUS_MULTIPROC_DIR`` is set for them) whichever is asked answers for all: requests are added
up, and what each worker has for itself - its connections to upstreams, its part of the ledger - is labelled with it.
"""

import os
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Protocol, cast, runtime_checkable

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from antiphon.server.request.call import Call

if TYPE_CHECKING:
    from antiphon.server.service import Service

CONTENT_TYPE = b"text/plain; version=1.0.0; charset=utf-8"
_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


_IS_WORKER = "PROMETHEUS_MULTIPROC_DIR" in os.environ
_OWN = {"worker": str(os.getpid())} if _IS_WORKER else {}


async def metrics(call: Call) -> None:
    """Show counters and gauges; no key asked, as scrapers expect (bind elsewhere than loopback with care)."""
    await call.respond(call.service.metrics.render(), headers=[(b"content-type", CONTENT_TYPE)])


class Metrics:
    """Counts requests and collects what backends tell of themselves when scraped."""

    def __init__(self, service: "Service") -> None:
        self._service = service
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "antiphon_requests", "Requests by path and status", ["path", "status"], registry=self._registry
        )
        self._durations = Histogram(
            "antiphon_request_seconds",
            "Time to the end of the answer",
            ["path"],
            buckets=_BUCKETS_S,
            registry=self._registry,
        )
        # Counted as it happens: whichever worker is asked reads what the others wrote last.
        self.in_flight = Gauge(
            "antiphon_in_flight", "Generation requests in work", multiprocess_mode="livesum", registry=self._registry
        )
        self._registry.register(_Live(service))

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
        everyone.register(_Live(self._service))
        return generate_latest(everyone)


class _Live:
    """Reads the statistics of every part at the moment of a scrape."""

    def __init__(self, service: "Service") -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for part in self._service.backend.statistics():
            for name, value in msgspec.structs.asdict(part.values).items():
                labels = part.labels if part.part == "engine" else {**part.labels, **_OWN}
                _add(families, f"antiphon_{part.part}_{name}", labels, value)
        accounts = self._service.accounts.statistics()
        for part, values in (("limiter", accounts.limiter), ("ledger", accounts.ledger)):
            for name, value in msgspec.structs.asdict(values).items():
                _add(families, f"antiphon_{part}_{name}", _OWN, value)
        yield from families.values()


def _add(families: dict[str, Metric], name: str, labels: dict[str, str], value: object) -> None:
    names, texts = list(labels), list(labels.values())
    if isinstance(value, bool | int | float):
        if name.endswith("_total"):
            counter = families.setdefault(name, CounterMetricFamily(name.removesuffix("_total"), name, labels=names))
            cast("CounterMetricFamily", counter).add_metric(texts, float(value))
        else:
            gauge = families.setdefault(name, GaugeMetricFamily(name, name, labels=names))
            cast("GaugeMetricFamily", gauge).add_metric(texts, float(value))
    elif isinstance(value, HistogramValue):
        family = families.setdefault(name, HistogramMetricFamily(name, name, labels=names))
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
