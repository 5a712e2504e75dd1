"""Refusals of accounts, with OpenAI's texts, status codes and headers.

The texts follow public captures of the real API. Where they name OpenAI's own pages, ours name the command
that does the same here.
"""

import math
from collections.abc import Mapping

from antiphon.accounts.reading import Reading
from antiphon.errors import AntiphonError
from antiphon.protocol.errors import ApiError
from antiphon.wire.durations import format_duration

NO_RETRY = {"x-should-retry": "false"}


class AccountError(AntiphonError):
    """Keys, limits or the ledger cannot do what was asked; never an answer over HTTP."""


def missing_key() -> ApiError:
    """401: no ``Authorization: Bearer`` header."""
    return ApiError(
        401,
        "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth "
        "(i.e. Authorization: Bearer YOUR_KEY). You can create one with `antiphon keys create --name NAME`.",
    )


def incorrect_key(key: str) -> ApiError:
    """401: a key that was never issued, or was revoked."""
    return ApiError(
        401,
        f"Incorrect API key provided: {masked(key)}. You can create one with `antiphon keys create --name NAME`.",
        code="invalid_api_key",
    )


def expired_key(key: str, expired_on: str) -> ApiError:
    """401: a key of ours that has expired; only its holder can see this message."""
    return ApiError(401, f"The API key provided, {masked(key)}, expired on {expired_on}.", code="invalid_api_key")


def ended_key() -> ApiError:
    """401: work that goes on without a request was begun by a key that was revoked or has expired since."""
    return ApiError(401, "The API key that this was begun with was revoked or has expired.", code="invalid_api_key")


def not_an_admin() -> ApiError:
    """403: organization routes show the usage of every key, so they require a key made with ``--admin``."""
    return ApiError(
        403,
        "You have insufficient permissions for this operation. Missing scopes: api.usage.read. "
        "Use a key made with `antiphon keys create --admin`.",
        code="missing_scope",
    )


def insufficient_quota() -> ApiError:
    """429: the key's budget is spent. Waiting does not help, so ``x-should-retry`` is false."""
    return ApiError(
        429,
        "You exceeded your current quota, please check your plan and billing details. "
        "This key's budget is spent; see `antiphon usage` and `antiphon keys list`.",
        type="insufficient_quota",
        code="insufficient_quota",
        headers=NO_RETRY,
    )


def budget_reserved() -> ApiError:
    """429: the rest of the key's budget is held by its requests in flight; they may cost less than was held for them."""
    return ApiError(
        429,
        "The rest of this key's budget is reserved for its requests in flight. "
        "Please try again when one of them has finished; see `antiphon usage` and `antiphon keys list`.",
        type="requests",
        code="rate_limit_exceeded",
        headers=retry_after(1.0),
    )


def request_too_large(
    model: str, organization: str, limit: int, requested: int, headers: Mapping[str, str]
) -> ApiError:
    """429 for more tokens than a full minute allows; it can never succeed."""
    return ApiError(
        429,
        f"Request too large for {model} in organization {organization} on tokens per min (TPM): "
        f"Limit {limit}, Requested {requested}. The input or output tokens must be reduced in order to run successfully.",
        type="tokens",
        code="rate_limit_exceeded",
        headers={**headers, **NO_RETRY},
    )


def rate_limited(
    model: str, organization: str, reading: Reading, *, requested: int, wait_s: float, headers: Mapping[str, str]
) -> ApiError:
    """429 of the bucket ``reading``; ``wait_s`` is after how long every bucket has room, in seconds."""
    return ApiError(
        429,
        f"Rate limit reached for {model} in organization {organization} on {reading.scope.title}: "
        f"Limit {reading.limit}, Used {math.ceil(reading.used)}, Requested {requested}. "
        f"Please try again in {format_duration(reading.wait_s(requested))}.",
        type=reading.scope.kind,
        code="rate_limit_exceeded",
        headers={**headers, **retry_after(wait_s)},
    )


def too_many_at_once(model: str, organization: str, limit: int, headers: Mapping[str, str]) -> ApiError:
    """429: the key already has as many requests in flight as it may. Nothing says when one ends, so the client asks again in a second."""
    return ApiError(
        429,
        f"Rate limit reached for {model} in organization {organization} on concurrent requests: "
        f"Limit {limit}, Used {limit}, Requested 1. Please try again when one of them has finished.",
        type="requests",
        code="rate_limit_exceeded",
        headers={**headers, **retry_after(1.0)},
    )


def store_unreachable(what: str) -> ApiError:
    """503: what decides about this request cannot be asked, so it is refused rather than let through."""
    return ApiError(
        503,
        f"The server cannot reach its {what}, please try again later",
        type="server_error",
        headers={"Retry-After": "1"},
    )


def says_when_to_retry(error: BaseException) -> bool:
    """Return whether a refusal says when to ask again."""
    return isinstance(error, ApiError) and "Retry-After" in error.headers


def retry_after(wait_s: float) -> dict[str, str]:
    """Both headers that the official client reads; rounded up, so that a client that waits so long finds room."""
    return {"Retry-After": str(math.ceil(wait_s)), "retry-after-ms": str(math.ceil(wait_s * 1000))}


def masked(key: str) -> str:
    """``sk-antip****wxyz``: enough to recognise a key, never enough to use it; short ones show nothing."""
    return f"{key[:8]}****{key[-4:]}" if len(key) >= 24 else "****"  # noqa: PLR2004 - shows at most half of a key
