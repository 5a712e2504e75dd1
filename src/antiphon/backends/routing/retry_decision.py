"""What an error before the first token means for trying again. Pure."""

import email.utils
import math
import time
from collections.abc import Mapping
from typing import Literal

import msgspec

from antiphon.backends.base import BackendError
from antiphon.protocol.errors import ApiError

Again = Literal["anywhere", "elsewhere", "nowhere"]
"""``elsewhere``: another backend may do better, this one would do the same again."""

_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
_TOO_MANY = 429
_UNAVAILABLE = 503


class RetryDecision(msgspec.Struct, frozen=True):
    """``is_fault``: it counts against the backend. ``pause_s``: the backend asked for this much peace."""

    again: Again
    is_fault: bool = False
    pause_s: float | None = None


def classify_error(error: ApiError, wall_clock: float | None = None) -> RetryDecision:
    """Judge an error that came before the first token. ``wall_clock`` (Unix seconds) is for dates in ``Retry-After``."""
    if error.status not in _TRANSIENT:
        return RetryDecision("nowhere")
    pause_s = retry_after_s(error.headers, time.time() if wall_clock is None else wall_clock)
    if isinstance(error, BackendError) and error.repeats_here:
        return RetryDecision("elsewhere", is_fault=True)
    if error.status == _TOO_MANY:
        never_here = _header(error.headers, "x-should-retry") == "false" or error.code == "insufficient_quota"
        return RetryDecision("elsewhere" if never_here else "anywhere", pause_s=pause_s)
    if error.status == _UNAVAILABLE and pause_s is not None:
        return RetryDecision("anywhere", pause_s=pause_s)
    return RetryDecision("anywhere", is_fault=True, pause_s=pause_s)


def retry_after_s(headers: Mapping[str, str], wall_clock: float) -> float | None:
    """Read ``retry-after-ms`` or ``Retry-After`` (seconds or a date); None where there is neither or it makes no sense."""
    for name, scale in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = _header(headers, name)
        if value is None:
            continue
        try:
            seconds = float(value) / scale
            return max(0.0, seconds) if math.isfinite(seconds) else None
        except ValueError:
            pass
        try:
            return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - wall_clock)
        except ValueError:
            continue
    return None


def _header(headers: Mapping[str, str], name: str) -> str | None:
    return next((value for key, value in headers.items() if key.lower() == name), None)
