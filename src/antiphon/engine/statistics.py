"""An engine's statistics: immutable values, and the collectors that make them."""

import bisect
from collections.abc import Sequence

import msgspec

STEP_BOUNDS_S = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)
TTFT_BOUNDS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
TOKEN_BOUNDS_S = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)
MASK_BOUNDS_S = (5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1)


class Histogram(msgspec.Struct, frozen=True):
    """``counts[i]`` observations were at most ``bounds[i]``; the last count is of those above. Not cumulated."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float = 0.0


def _empty(bounds: Sequence[float]) -> Histogram:
    return Histogram(tuple(bounds), (0,) * (len(bounds) + 1))


class EngineStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot of an engine. Tokens and requests count since the process started; times are in seconds.

    ``kv_bytes`` are allocated for the KV cache and for recurrent states, whether used or not; None if that is not
    known. ``cells_used`` counts KV cells held by running requests and by the prefix cache, ``cached_tokens`` those that
    the prefix cache could give back at once. ``prompt_tokens`` were asked for, of which ``prompt_tokens_shared`` came from
    the cache: their ratio is the hit rate. ``drafted_tokens`` were computed speculatively, of which ``accepted_tokens``
    were accepted; ``model_drafted_tokens`` and ``model_accepted_tokens`` are those of them that a draft model proposed. Rates are tokens per second of step time, over the last seconds. ``mask_s`` is the time to find the
    tokens that a grammar allows, once for each token drawn under one.
    """

    running: int = 0
    waiting: int = 0
    cells_used: int = 0
    cells_total: int = 0
    kv_bytes: int | None = None
    cached_tokens: int = 0
    prompt_tokens: int = 0
    prompt_tokens_shared: int = 0
    prefill_tokens: int = 0
    decode_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    model_drafted_tokens: int = 0
    model_accepted_tokens: int = 0
    prefill_tokens_per_s: float = 0.0
    decode_tokens_per_s: float = 0.0
    requests: int = 0
    cancelled: int = 0
    refused: int = 0
    preempted: int = 0
    steps: int = 0
    step_s: Histogram = _empty(STEP_BOUNDS_S)
    ttft_s: Histogram = _empty(TTFT_BOUNDS_S)
    inter_token_s: Histogram = _empty(TOKEN_BOUNDS_S)
    mask_s: Histogram = _empty(MASK_BOUNDS_S)
    resident_bytes: int = 0
    restarts: int = 0


class HistogramCollector:
    """A histogram that grows. Not thread-safe."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count ``value`` as often as ``times`` says."""
        self._counts[bisect.bisect_left(self._bounds, value)] += times
        self._total += value * times

    def snapshot(self) -> Histogram:
        """Return the current counts."""
        return Histogram(self._bounds, tuple(self._counts), self._total)


class RateCollector:
    """Tokens per second of the time spent on them, the past fading with a half-life of about ten seconds of work."""

    _DECAY = 0.93

    def __init__(self) -> None:
        self._tokens = 0.0
        self._seconds = 0.0
        self._pending_s = 0.0

    def observe(self, tokens: int, seconds: float) -> None:
        """Add ``tokens`` that took ``seconds``."""
        self._pending_s += seconds
        if self._pending_s >= 1.0:
            self._tokens *= self._DECAY
            self._seconds *= self._DECAY
            self._pending_s = 0.0
        self._tokens += tokens
        self._seconds += seconds

    def snapshot(self) -> float:
        """Return tokens per second, 0 before the first observation."""
        return self._tokens / self._seconds if self._seconds else 0.0
