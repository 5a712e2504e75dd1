"""Identifiers, as OpenAI writes them."""

import secrets
import string

_ALPHABET = string.ascii_letters + string.digits
_ID_LENGTH = 29
_LETTERS = bytes(ord(_ALPHABET[byte % len(_ALPHABET)]) for byte in range(256))
"""A character for each byte. Some come five times and some four times; an identifier still has more than 160 random bits."""


def new_id(prefix: str, separator: str = "-") -> str:
    """Return an identifier in OpenAI's form: ``new_id("chatcmpl")`` is ``chatcmpl-`` and 29 letters and digits.

    The newer objects are written with ``_``: ``resp_``, ``msg_``, ``conv_``.
    """
    return f"{prefix}{separator}{secrets.token_bytes(_ID_LENGTH).translate(_LETTERS).decode()}"
