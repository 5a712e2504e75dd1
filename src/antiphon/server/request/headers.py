"""Header values in and out of the ASGI scope, without a request object on the hot path."""

from collections.abc import Mapping
from typing import Any

Scope = Any
Headers = list[tuple[bytes, bytes]]


def header(scope: Scope, name: bytes) -> str | None:
    """Return the first header ``name`` (lower case), decoded as Latin-1, or None."""
    for key, value in scope["headers"]:
        if key == name:
            return value.decode("latin-1")
    return None


def encoded(headers: Mapping[str, str]) -> Headers:
    """Return headers as ASGI wants them."""
    return [(name.lower().encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers.items()]
