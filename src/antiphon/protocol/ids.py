"""Identifiers, as OpenAI writes them."""

import secrets
import string

_ALPHABET = string.ascii_letters + string.digits
_ID_LENGTH = 29
_RESPONSE = "resp_"
_LETTERS = bytes(ord(_ALPHABET[byte % len(_ALPHABET)]) for byte in range(256))
"""A character for each byte. Some come five times and some four times; an identifier still has more than 160 random bits."""


def new_id(prefix: str, separator: str = "-") -> str:
    """Return an identifier in OpenAI's form: ``new_id("chatcmpl")`` is ``chatcmpl-`` and 29 letters and digits.

    The newer objects are written with ``_``: ``resp_``, ``msg_``, ``conv_``.
    """
    return f"{prefix}{separator}{secrets.token_bytes(_ID_LENGTH).translate(_LETTERS).decode()}"


def new_item_id(prefix: str, response_id: str, number: int) -> str:
    """Return the identifier of an item of a response. It holds the response's own, so the item is found without an index.

    ``number`` is the item's place: input items come first, output items follow.
    """
    return f"{prefix}_{response_id.removeprefix(_RESPONSE)}{number:02x}"


def response_id_of(item_id: str) -> str | None:
    """Return the identifier of the response whose item this is, as ``new_item_id`` wrote it; None for another form."""
    key = item_id.partition("_")[2]
    return _RESPONSE + key[:_ID_LENGTH] if len(key) > _ID_LENGTH else None
