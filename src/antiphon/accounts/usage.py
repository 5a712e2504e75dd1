"""The row that every request leaves in the table ``usage``."""

import math
import random

import msgspec
from sqlalchemy import String

from antiphon.accounts.outcome import Kind, Outcome
from antiphon.accounts.request import Request
from antiphon.accounts.schema import usage
from antiphon.protocol.events import CacheStatus, Usage

MAX_TOKENS = 2**32
"""No request has more tokens than this. Sums over two billion such rows still fit every database's integers."""

_LATEST_MS = 2**48 - 1
"""The latest time that 12 hex digits hold."""


class UsageRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One row of the table ``usage``; the fields are its columns."""

    id: str
    at_ms: int
    request_id: str
    key_id: str | None
    kind: Kind
    model_asked: str
    model_answered: str | None
    status: int
    error_code: str | None
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    cache: CacheStatus | None
    ttft_s: float | None
    duration_s: float
    compute_s: float | None
    usd: float | None
    saved_usd: float | None
    is_estimate: bool = False
    path: str | None = None
    queue_s: float | None = None
    prefill_s: float | None = None
    attempts: str | None = None
    is_batch: bool = False


def new_row_id(at_ms: int) -> str:
    """Return 28 hex digits that sort by time; 64 random bits keep apart what came in one millisecond."""
    return f"{at_ms:012x}{random.getrandbits(64):016x}"


def _fitting(text: str, name: str) -> str:
    """Return ``text`` as column ``name`` can hold it: clients and upstreams choose names of any length and characters."""
    kind = usage.c[name].type
    assert isinstance(kind, String)
    assert kind.length is not None
    # PostgreSQL stores neither NUL nor half of a surrogate pair.
    text = text.replace("\0", "\ufffd").encode(errors="replace").decode()
    return text if len(text) <= kind.length else text[: kind.length - 1] + "\u2026"


def is_possible(usage: Usage) -> bool:
    """Return whether a request can have used so many tokens."""
    return all(0 <= count <= MAX_TOKENS for count in msgspec.structs.astuple(usage))


def within_bounds(outcome: Outcome) -> Outcome:
    """Return the outcome with numbers that every database can store and add up, whatever a clock or an upstream says.

    A count of tokens above ``MAX_TOKENS`` becomes that number, and the outcome an estimate.
    """
    is_within = is_possible(outcome.usage)
    if is_within and 0 <= outcome.started_at * 1000 <= _LATEST_MS and math.isfinite(outcome.duration_s):
        return outcome
    return msgspec.structs.replace(
        outcome,
        usage=_bounded(outcome.usage),
        is_estimate=outcome.is_estimate or not is_within,
        started_at=_clipped(outcome.started_at, _LATEST_MS / 1000),
        duration_s=_clipped(outcome.duration_s, _LATEST_MS / 1000),
    )


def _bounded(used: Usage) -> Usage:
    return Usage(*(min(max(count, 0), MAX_TOKENS) for count in msgspec.structs.astuple(used)))


def _clipped(value: float, highest: float) -> float:
    return min(max(value, 0.0), highest) if math.isfinite(value) else 0.0


def usage_row(request: Request, outcome: Outcome, usd: float | None, saved_usd: float | None) -> UsageRow:
    """Return the row of a request that is over; ``outcome`` as ``within_bounds`` returns it."""
    at_ms = int(outcome.started_at * 1000)
    used = outcome.usage
    return UsageRow(
        id=new_row_id(at_ms),
        at_ms=at_ms,
        request_id=_fitting(outcome.request_id, "request_id"),
        key_id=request.principal.key_id,
        kind=request.kind,
        model_asked=_fitting(request.model, "model_asked"),
        model_answered=None if outcome.model is None else _fitting(outcome.model, "model_answered"),
        status=outcome.status,
        error_code=None if outcome.error_code is None else _fitting(outcome.error_code, "error_code"),
        prompt_tokens=used.prompt_tokens,
        completion_tokens=used.completion_tokens,
        cached_tokens=used.cached_tokens,
        reasoning_tokens=used.reasoning_tokens,
        cache=outcome.cache,
        ttft_s=outcome.first_token_s,
        duration_s=outcome.duration_s,
        compute_s=outcome.compute_s,
        usd=usd,
        saved_usd=saved_usd,
        is_estimate=outcome.is_estimate,
        path=None if outcome.path is None else _fitting(outcome.path, "path"),
        queue_s=outcome.queue_s,
        prefill_s=outcome.prefill_s,
        attempts=outcome.attempts,
    )
