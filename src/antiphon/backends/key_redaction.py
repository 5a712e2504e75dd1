"""Replaces what looks like a key in the contents of captured requests."""

import re

_HIDDEN = "[hidden]"
_KEY_FORM = r"sk-[A-Za-z0-9_-]{12,}"
_KEY = re.compile(_KEY_FORM)
_KEY_BYTES = re.compile(_KEY_FORM.encode())
_CREDENTIAL = re.compile(
    rb'("(?:[Aa]uthorization|[Xx]-[Aa]pi-[Kk]ey|api[_-]key|apiKey|access_token|password|secret)"\s*:\s*")'
    rb'(?:[^"\\]|\\.)*"'
)


def without_keys(body: bytes) -> bytes:
    """Return JSON with ``[hidden]`` in place of keys in OpenAI's form (and ours), and of values whose name says that they are secret."""
    return _CREDENTIAL.sub(rb"\1" + _HIDDEN.encode() + b'"', _KEY_BYTES.sub(_HIDDEN.encode(), body))


def text_without_keys(text: str) -> str:
    """Return ``text`` with ``[hidden]`` in place of keys in OpenAI's form."""
    return _KEY.sub(_HIDDEN, text)
