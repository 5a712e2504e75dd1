"""Identifiers, as OpenAI writes them."""

import secrets
import string

_ALPHABET = string.ascii_letters + string.digits
_ID_LENGTH = 29


def new_id(prefix: str, separator: str = "-") -> str:
    """Return an identifier in OpenAI's form: ``new_id("chatcmpl")`` is ``chatcmpl-`` and 29 letters and digits.

    The newer objects are written with ``_``: ``resp_``, ``msg_``, ``conv_``.
    """
    # One random number makes all characters: 62**29 < 2**176.
    number = secrets.randbits(176)
    characters: list[str] = []
    for _ in range(_ID_LENGTH):
        number, index = divmod(number, len(_ALPHABET))
        characters.append(_ALPHABET[index])
    return f"{prefix}{separator}{''.join(characters)}"
