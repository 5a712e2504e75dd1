"""How a request ended."""

from typing import Literal

import msgspec

from antiphon.protocol.errors import ApiError
from antiphon.protocol.events import CacheStatus, Spared, Usage

Kind = Literal["chat", "completion", "embedding", "rerank", "tokenize", "other", "file"]
"""``other``: a request for a path that this server sent on to an upstream."""

CLIENT_CLOSED_REQUEST = 499
"""The status in the ledger of a request whose client left before the end."""


def how_it_failed(error: BaseException) -> tuple[int, str]:
    """Return the status and the error code that a request ended by ``error`` has in the ledger."""
    if isinstance(error, ApiError):
        return error.status, error.code or error.type
    if isinstance(error, Exception):
        return 500, "server_error"
    # Cancelled: the client has left.
    return CLIENT_CLOSED_REQUEST, "client_closed"


class Outcome(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What the server knows at the end of a request, however it ended.

    ``started_at`` is in Unix seconds, ``first_token_s`` and ``duration_s`` count from it. ``status`` is the HTTP status
    that was, or would have been, answered (499: the client left). ``model`` is the one that really answered, None if none
    did. ``usage`` is what was used until then. ``compute_s``: seconds of an engine on this machine, None when there was
    none or it was not measured. ``is_estimate``: ``usage`` was estimated, because another API's answer ended or broke off before
    it reported its usage. ``spared`` is what the response cache spared, None if nothing or not measured. ``error_code`` is the
    ``code`` of the error, or its ``type``. ``path`` is that of the request's URL. ``queue_s`` and ``prefill_s`` are of the engine
    on this machine, None without one. ``attempts`` lists the tries at backends as JSON, None where there was no choice.
    """

    request_id: str
    started_at: float
    duration_s: float
    first_token_s: float | None = None
    status: int = 200
    model: str | None = None
    usage: Usage = Usage()
    is_estimate: bool = False
    cache: CacheStatus | None = None
    compute_s: float | None = None
    spared: Spared | None = None
    error_code: str | None = None
    path: str | None = None
    queue_s: float | None = None
    prefill_s: float | None = None
    attempts: str | None = None
