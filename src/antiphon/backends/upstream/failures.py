"""Failures of an upstream, as the error that our client gets.

An upstream's own error about the request (400, 404, 413, 422, 429, ...) keeps its words. What concerns only this server
(the upstream's address, our key, malformed answers) becomes a 502 or 504, so that clients never take it for a fault of their own.
"""

import os
import socket
from collections.abc import Mapping
from typing import Any, Literal, cast

import msgspec

from antiphon.backends.base import BackendError

FailureKind = Literal["unreachable", "disconnected", "timeout", "protocol", "credentials", "answered"]
"""``answered`` is an error that the upstream sent as its answer."""

_MAX_MESSAGE = 2000
_MAX_HEADER = 500
_PASSED_HEADERS = ("retry-after", "retry-after-ms", "x-should-retry")
_UNAUTHORIZED = (401, 403, 407)


class UpstreamError(BackendError):
    """A request failed at an upstream. ``upstream`` is its name in the settings."""

    def __init__(
        self,
        upstream: str,
        kind: FailureKind,
        status: int,
        message: str,
        *,
        type: str = "server_error",  # noqa: A002 - the name on the wire
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, type=type, param=param, code=code, headers=headers)
        self.upstream = upstream
        self.kind: FailureKind = kind
        # The same request would wait as long there, or fail as surely, again.
        self.repeats_here = kind in {"timeout", "protocol", "credentials"}


def unreachable(upstream: str, why: str) -> UpstreamError:
    return UpstreamError(
        upstream,
        "unreachable",
        502,
        f"The upstream {upstream!r} cannot be reached: {why}.",
        code="upstream_unreachable",
    )


def disconnected(upstream: str) -> UpstreamError:
    return UpstreamError(
        upstream,
        "disconnected",
        502,
        f"The upstream {upstream!r} closed the connection before its answer was complete.",
        code="upstream_disconnected",
    )


def timed_out(upstream: str, phase: str, seconds: float) -> UpstreamError:
    return UpstreamError(
        upstream,
        "timeout",
        504,
        f"The upstream {upstream!r} sent nothing for {seconds:g} s ({phase}).",
        code="upstream_timeout",
    )


def protocol_error(upstream: str, what: str) -> UpstreamError:
    return UpstreamError(
        upstream,
        "protocol",
        502,
        f"The upstream {upstream!r} sent an invalid answer: {what}.",
        code="upstream_protocol_error",
    )


class _Envelope(msgspec.Struct):
    """OpenAI's ``error``, and the shapes that other servers use instead."""

    error: Any = None
    message: Any = None
    detail: Any = None


_decoder = msgspec.json.Decoder(_Envelope)


def error_from_answer(upstream: str, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamError:
    """Read an error answer, in OpenAI's envelope or not, into the error that goes on to our client."""
    if status in _UNAUTHORIZED:
        return UpstreamError(
            upstream,
            "credentials",
            502,
            f"The upstream {upstream!r} refused this server's credentials ({status}).",
            code="upstream_credentials",
        )
    if 300 <= status < 400:  # noqa: PLR2004 - redirects
        return protocol_error(upstream, f"a redirect ({status})")
    if not 400 <= status <= 599:  # noqa: PLR2004 - the statuses of errors; clients would take others for success
        return protocol_error(upstream, f"the status {status}")
    fields = _fields(body)
    return UpstreamError(
        upstream,
        "answered",
        status,
        _text(fields.get("message")) or f"The upstream {upstream!r} answered with status {status}.",
        type=_text(fields.get("type")) or ("server_error" if status >= 500 else "invalid_request_error"),  # noqa: PLR2004
        param=_text(fields.get("param")),
        code=_text(fields.get("code")),
        headers={name: headers[name] for name in _PASSED_HEADERS if is_header_text(headers.get(name, ""))},
    )


def error_from_chunk(upstream: str, error: bytes) -> UpstreamError:
    """Read the ``error`` object of a stream's chunk, or of a whole answer whose status is that of a success."""
    try:
        fields = _as_fields(msgspec.json.decode(error))
    except (msgspec.DecodeError, RecursionError):
        fields = {}
    return UpstreamError(
        upstream,
        "answered",
        502,
        _text(fields.get("message")) or f"The upstream {upstream!r} broke off its answer.",
        type=_text(fields.get("type")) or "server_error",
        param=_text(fields.get("param")),
        code=_text(fields.get("code")),
    )


def is_header_text(value: str) -> bool:
    """Whether an upstream's header may go on to a client: some visible ASCII, not too much of it."""
    return 0 < len(value) <= _MAX_HEADER and value.isascii() and value.isprintable()


def os_reason(error: OSError) -> str:
    """Return the system's reason; asyncio's own message names the address, which clients must not see."""
    if isinstance(error, socket.gaierror):
        return "its name cannot be resolved"
    return os.strerror(error.errno).lower() if error.errno else "no connection"


def _fields(body: bytes) -> dict[str, Any]:
    try:
        envelope = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {"message": body.decode("utf-8", "replace").strip()}
    return _as_fields(envelope.error or envelope.message or envelope.detail)


def _as_fields(error: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", error) if isinstance(error, dict) else {"message": error}


def _text(value: Any) -> str | None:
    if value is None or value == "":
        return None
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text[:_MAX_MESSAGE]
