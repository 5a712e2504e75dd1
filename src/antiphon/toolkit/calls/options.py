"""What may be set around the calls of every function and class that sends something."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, TypedDict

from antiphon.toolkit.calls.breaker import CircuitBreaker
from antiphon.toolkit.calls.response_cache import ResponseCache
from antiphon.toolkit.calls.retry import RetryPolicy
from antiphon.toolkit.clients import Client
from antiphon.toolkit.costs.budget import Budget
from antiphon.toolkit.costs.prices import PriceTable
from antiphon.toolkit.costs.report import Report
from antiphon.toolkit.pacing.pace import Pace


@dataclass(frozen=True, slots=True)
class Fallback:
    """A model to ask when those before it fail, at the same endpoint or through another ``client``."""

    model: str
    client: Client | None = None


class EmbeddingOptions(TypedDict, total=False):
    """What may be set around calls for embeddings: by ``embed``, ``Embedder`` and ``Index``.

    ``budget`` stops before a call it does not cover; ``retry`` replaces the client's own retries; ``breaker`` leaves a
    failing endpoint alone; ``report`` collects a record per call; ``prices`` are your own; ``pace`` keeps within limits per
    minute, and brings ``RetryPolicy()`` along unless ``retry`` is given, so that retries keep to it as well.
    """

    budget: Budget
    retry: RetryPolicy
    breaker: CircuitBreaker
    report: Report
    prices: PriceTable
    pace: Pace


class CallOptions(EmbeddingOptions, total=False):
    """What may be set around the calls of a chat, a function or a bulk run: ``EmbeddingOptions`` and two more.

    ``fallbacks`` are asked in turn when a model fails or is not served; ``cache`` answers deterministic calls from disk.
    """

    fallbacks: Sequence[str | Fallback]
    cache: ResponseCache


def require_options(options: Mapping[str, Any], known: Any, what: str) -> None:
    """Raise TypeError, as for any keyword that a function does not have, for ``options`` that ``known`` has not."""
    names = known.__required_keys__ | known.__optional_keys__
    if unknown := sorted(options.keys() - names):
        alike = [near for name in unknown for near in get_close_matches(name, names, n=1)]
        meant = f" (did you mean {', '.join(map(repr, alike))}?)" if alike else ""
        raise TypeError(f"{what} has no options {unknown!r}{meant}; it has {sorted(names)!r}")
