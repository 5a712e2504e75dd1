"""Which upstream a request is for: by header, by the objects that it names, by its model, or by default. Pure but for the lookup."""

import re
from typing import Any, cast
from urllib.parse import parse_qsl, unquote

import msgspec

from antiphon.protocol.errors import ApiError

HEADER = "x-antiphon-upstream"
"""Header of a request: the name of the upstream that it is for."""
_ID = re.compile(r"[A-Za-z][A-Za-z0-9]*[-_][A-Za-z0-9][A-Za-z0-9_.-]{5,190}")
_VALUES = msgspec.json.Decoder(dict[str, Any])
_MAX_DECODINGS = 3


def checked_path(raw_path: bytes, query: bytes) -> str:
    """Return what follows ``/v1``, with the query. ``ApiError`` 400 for a path that could lead out of the API.

    Some servers decode a path twice, and some end a segment at a semicolon.
    """
    path = raw_path.decode("latin-1")
    if "#" in path or b"#" in query:
        raise ApiError(400, "Invalid path: '#' must be written as '%23'.", code="invalid_path")
    for segment in path.split("/"):
        read = segment
        for _ in range(_MAX_DECODINGS):
            read = unquote(read)
            if read.partition(";")[0] in {".", ".."} or "\\" in read or "/" in read:
                raise ApiError(400, f"Invalid path segment: {segment[:100]!r}.", code="invalid_path")
    path = path.removeprefix("/v1")
    return path + ("?" + query.decode("latin-1") if query else "")


def ids_in_path(path: str) -> list[str]:
    """Return the parts of a path, decoded, that look like the ids of objects."""
    return [part for part in map(unquote, path.partition("?")[0].split("/")) if _ID.fullmatch(part)]


def ids_in_query(path: str) -> list[str]:
    """Return the values in the query of a path that look like the ids of objects."""
    return [value for _, value in parse_qsl(path.partition("?")[2]) if _ID.fullmatch(value)]


def ids_in_body(body: bytes) -> list[str]:
    """Return each text in a JSON object, at any depth, that looks like an id; never fails."""
    try:
        fields = _VALUES.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []
    found: dict[str, None] = {}
    waiting: list[Any] = [fields]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting.extend(reversed(cast("dict[str, Any]", value).values()))
        elif isinstance(value, list):
            waiting.extend(reversed(cast("list[Any]", value)))
        elif isinstance(value, str) and _ID.fullmatch(value):
            found[value] = None
    return list(found)
