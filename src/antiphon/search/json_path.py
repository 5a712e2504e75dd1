"""SQLite's path to a key of a JSON object, as both kinds of filters on metadata need it."""

import re

NOT_IN_PATHS = "a quotation mark, a backslash or a control character"
"""What a key must not have to be found by a path: JSON writes it as an escape, which some versions of SQLite do not read."""
_ESCAPED = re.compile(r'["\\\x00-\x1f]')


def path_of_key(key: str) -> str | None:
    """Return the path to ``key``, of whatever other characters; None for a key that no path can hold."""
    return None if _ESCAPED.search(key) else f'$."{key}"'
