"""Which of the known models this machine can run, and about how fast.

A decoded token reads the model's weights once, so memory bandwidth bounds the speed. It is measured here; the speed
that follows from it is an estimate and is labelled so.
"""

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np

from antiphon.models.known import KnownModel

_BLOCK_BYTES = 64 << 20
_ROUNDS = 3
_EFFICIENCY = 0.7
"""The share of the measured bandwidth that decoding reaches: unpacking weights and attention take the rest."""


class Suggestion(msgspec.Struct, frozen=True):
    """A model, whether it fits, and the estimate of its decoding speed (tokens per second; None for other kinds)."""

    model: KnownModel
    memory_bytes: int
    fits: bool
    tokens_per_s: float | None


def suggest(
    models: Sequence[KnownModel], *, memory_bytes: int, bandwidth: float, context_size: int
) -> tuple[Suggestion, ...]:
    """Return each model with its need of memory at ``context_size`` tokens, and its speed at ``bandwidth`` bytes per second.

    ``memory_bytes`` is what may be used now. The order of ``models`` is kept.
    """
    found: list[Suggestion] = []
    for model in models:
        need = model.memory_bytes(context_size if model.entry.kind == "chat" else 0)
        speed = _EFFICIENCY * bandwidth / model.read_bytes if model.entry.kind == "chat" else None
        found.append(Suggestion(model, need, need <= memory_bytes, speed))
    return tuple(found)


def best(suggestions: Sequence[Suggestion], *, least_tokens_per_s: float = 5.0) -> Suggestion | None:
    """Return the largest chat model that fits and reaches ``least_tokens_per_s``; None if there is none."""
    chats = [s for s in suggestions if s.fits and s.tokens_per_s is not None and s.tokens_per_s >= least_tokens_per_s]
    return max(chats, key=lambda s: s.model.file_bytes, default=None)


def measure_bandwidth(threads: int | None = None) -> float:
    """Return the bytes per second that ``threads`` threads (default: one a core) read from memory, the best of three rounds.

    Takes about a second and 64 MiB a thread.
    """
    count = threads or os.cpu_count() or 1
    blocks = [np.ones(_BLOCK_BYTES // 8, np.float64) for _ in range(count)]
    with ThreadPoolExecutor(count) as pool:
        rates: list[float] = []
        for _ in range(_ROUNDS):
            started = time.perf_counter()
            list(pool.map(np.sum, blocks))
            rates.append(count * _BLOCK_BYTES / (time.perf_counter() - started))
    return max(rates)
