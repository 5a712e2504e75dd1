"""Reads header values from the ASGI scope and makes the headers of answers, without a request object on the hot path."""

from collections.abc import Mapping
from typing import Any

from antiphon.server.request.origin_check import OriginCheck

Scope = Any
Headers = list[tuple[bytes, bytes]]

_OPENAI_VERSION = "2020-10-01"


def header(scope: Scope, name: bytes) -> str | None:
    """Return the first header ``name`` (lower case), decoded as Latin-1, or None."""
    for key, value in scope["headers"]:
        if key == name:
            return value.decode("latin-1")
    return None


def encoded(headers: Mapping[str, str]) -> Headers:
    """Return headers in the form that ASGI expects."""
    return [(name.lower().encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers.items()]


class StandardHeaders:
    """The headers that every answer carries; immutable."""

    def __init__(self, organization: str, origin_check: OriginCheck) -> None:
        self._organization = organization
        self._origin_check = origin_check

    def of(self, request_id: str, elapsed_s: float, origin: str | None) -> dict[str, str]:
        """Return OpenAI's headers, and the CORS headers when a page of an allowed ``origin`` made the request."""
        standard = {
            "x-request-id": request_id,
            "openai-processing-ms": str(round(elapsed_s * 1000)),
            "openai-version": _OPENAI_VERSION,
            "openai-organization": self._organization,
        }
        if origin is not None and self._origin_check.allows_origin(origin):
            standard["access-control-allow-origin"] = origin
            standard["access-control-expose-headers"] = "*"
            standard["vary"] = "origin"
        return standard
