"""What an error before the first token means for trying again. Pure."""

import time
from typing import Literal

import msgspec

from antiphon.backends.base import BackendError
from antiphon.protocol.errors import ApiError
from antiphon.wire.failures import (
    CONFLICT,
    LASTING_CODES,
    SERVICE_UNAVAILABLE,
    TOO_MANY_REQUESTS,
    is_transient,
    should_retry,
)
from antiphon.wire.retry_after import retry_after_s

Again = Literal["anywhere", "elsewhere", "nowhere"]
"""``elsewhere``: another backend may succeed, this one would fail again."""


class RetryDecision(msgspec.Struct, frozen=True):
    """``is_fault``: it counts against the backend. ``pause_s``: the seconds that the backend asked to be left alone."""

    again: Again
    is_fault: bool = False
    pause_s: float | None = None


def classify_error(error: ApiError, unix_time: float | None = None) -> RetryDecision:
    """Decide about an error that came before the first token. ``unix_time`` is now, for dates in ``Retry-After``."""
    if not is_transient(error.status):
        return RetryDecision("nowhere")
    pause_s = retry_after_s(error.headers, time.time() if unix_time is None else unix_time)
    if isinstance(error, BackendError) and error.repeats_here:
        return RetryDecision("elsewhere", is_fault=True)
    if error.status == TOO_MANY_REQUESTS:
        is_lasting = should_retry(error.headers) is False or error.code in LASTING_CODES
        return RetryDecision("elsewhere" if is_lasting else "anywhere", pause_s=pause_s)
    if error.status == SERVICE_UNAVAILABLE and pause_s is not None:
        return RetryDecision("anywhere", pause_s=pause_s)
    return RetryDecision("anywhere", is_fault=error.status != CONFLICT, pause_s=pause_s)
