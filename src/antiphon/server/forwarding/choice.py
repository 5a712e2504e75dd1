"""Which upstream a request is for: by header, by the objects that it names, by its model, or by default. Pure but for the lookup."""

import re
from collections.abc import Iterator
from typing import Any, cast
from urllib.parse import unquote

import msgspec

from antiphon.protocol.errors import ApiError

HEADER = "x-antiphon-upstream"
"""Header of a request: the name of the upstream that it is for."""
_ID = re.compile(r"[A-Za-z][A-Za-z0-9]*[-_][A-Za-z0-9][A-Za-z0-9_.-]{5,190}")
_MAX_IDS = 20
_VALUES = msgspec.json.Decoder(dict[str, Any])


def checked_path(raw_path: bytes, query: bytes) -> str:
    """Return what follows ``/v1``, with the query. ``ApiError`` 400 for a path that could lead out of the API."""
    path = raw_path.decode("latin-1")
    for segment in path.split("/"):
        if unquote(segment) in {".", ".."} or "\\" in unquote(segment) or "/" in unquote(segment):
            raise ApiError(400, f"Invalid path segment: {segment[:100]!r}.", code="invalid_path")
    path = path.removeprefix("/v1")
    return path + ("?" + query.decode("latin-1") if query else "")


def ids_in_path(path: str) -> list[str]:
    """Return the parts of a path that look like the ids of objects."""
    return [part for part in path.partition("?")[0].split("/") if _ID.fullmatch(part)]


def ids_in_body(body: bytes) -> list[str]:
    """Return the texts at the top level of a JSON object that look like ids, in it or in a list; never fails."""
    try:
        fields = _VALUES.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []
    return [text for _, text in zip(range(_MAX_IDS), _texts(fields), strict=False)]


def _texts(fields: dict[str, Any]) -> Iterator[str]:
    for value in fields.values():
        for each in cast("list[Any]", value) if isinstance(value, list) else [value]:
            if isinstance(each, str) and _ID.fullmatch(each):
                yield each
