"""The row that every request leaves in the table ``usage``."""

import random

import msgspec

from antiphon.accounts.admission import Request
from antiphon.accounts.outcome import Kind, Outcome
from antiphon.protocol.events import CacheStatus


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


def new_row_id(at_ms: int) -> str:
    """Return 28 hex digits that sort by time; 64 random bits keep apart what came in one millisecond."""
    return f"{at_ms:012x}{random.getrandbits(64):016x}"


def usage_row(request: Request, outcome: Outcome, usd: float | None, saved_usd: float | None) -> UsageRow:
    """Return the row of a request that is over."""
    at_ms = int(outcome.started_at * 1000)
    usage = outcome.usage
    return UsageRow(
        id=new_row_id(at_ms),
        at_ms=at_ms,
        request_id=outcome.request_id,
        key_id=request.principal.key_id,
        kind=request.kind,
        model_asked=request.model,
        model_answered=outcome.model,
        status=outcome.status,
        error_code=outcome.error_code,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cached_tokens=usage.cached_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        cache=outcome.cache,
        ttft_s=outcome.first_token_s,
        duration_s=outcome.duration_s,
        compute_s=outcome.compute_s,
        usd=usd,
        saved_usd=saved_usd,
    )
