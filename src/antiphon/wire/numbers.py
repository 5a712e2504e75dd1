"""Whole numbers in headers."""

import re

_INTEGER = re.compile(r"-?[0-9]{1,18}")


def parse_integer(text: str | None) -> int | None:
    """Return a header's whole number of at most 18 ASCII digits; None for a missing header and for any other text."""
    return int(text) if text is not None and _INTEGER.fullmatch(text) else None
