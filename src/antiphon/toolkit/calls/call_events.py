"""What happens to one call of a model, for a listener: sent, tried again, asked of another model, ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from antiphon.toolkit.record import CallRecord


@dataclass(frozen=True, slots=True)
class RequestSent:
    """A request goes out to ``path``: the client's keyword arguments as they are sent, messages included.

    ``attempt`` counts from 1 for each model; a second one follows a refusal that the toolkit adapts to, or a retry of
    ``RetryPolicy``. Retries that the client makes by itself are in the record alone.
    """

    model: str
    path: str
    request: Mapping[str, Any] = field(repr=False)
    attempt: int


@dataclass(frozen=True, slots=True)
class RequestRetried:
    """A try failed for a ``reason`` that may pass; the next one follows after ``wait_s`` seconds."""

    model: str
    reason: str
    wait_s: float


@dataclass(frozen=True, slots=True)
class FailedOver:
    """A model failed with ``error``, and the next fallback is asked."""

    model: str
    next_model: str
    error: BaseException


@dataclass(frozen=True, slots=True)
class CallEnded:
    """A call was answered, by the response cache too (``record.from_cache``), or its stream was left early."""

    record: CallRecord


CallEvent = RequestSent | RequestRetried | FailedOver | CallEnded
OnCallEvent = Callable[[CallEvent], object]
