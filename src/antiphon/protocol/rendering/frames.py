"""Server-sent events and identifiers, as OpenAI writes them."""

import secrets
from typing import Any

import msgspec

from antiphon.protocol.errors import ApiError
from antiphon.protocol.events import Started

DONE = b"data: [DONE]\n\n"

SERVICE_TIER = "default"
"""There is one tier; every answer says so, whichever was asked for."""

_PAD_TO = 64


def fingerprint(started: Started) -> dict[str, str]:
    """Return the ``system_fingerprint`` field; it is a string or absent, never null."""
    return {} if started.system_fingerprint is None else {"system_fingerprint": started.system_fingerprint}


encode = msgspec.json.Encoder().encode


def frame(value: Any) -> bytes:
    """Return one event that carries ``value`` as JSON."""
    return b"data: " + encode(value) + b"\n\n"


def error_frame(error: ApiError) -> bytes:
    """Return the event after which a failed stream ends: clients raise on it."""
    return frame(error.body())


def obfuscate(chunk: bytes) -> bytes:
    """Hide a frame's length: add a field of noise that fills it up to a multiple of 64 bytes."""
    opening, closing = b',"obfuscation":"', b'"}\n\n'
    bare = chunk.removesuffix(b"}\n\n") + opening
    missing = -(len(bare) + len(closing)) % _PAD_TO
    return bare + secrets.token_hex(_PAD_TO)[:missing].encode() + closing
