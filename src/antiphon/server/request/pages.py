"""Cursor pagination of lists, as OpenAI's: ``limit``, ``order``, ``after``, ``before``."""

from collections.abc import Sequence
from typing import Any

import msgspec

from antiphon.protocol import problems
from antiphon.server.request.call import Call
from antiphon.server.request.query import check_includes, query_parameters

Json = dict[str, Any]
_MAX_LIMIT = 100
_DEFAULT_LIMIT = 20
_PARAMETERS = ("limit", "order", "after", "before", "include", "include[]")


class Page(msgspec.Struct, frozen=True):
    """What part of a list is wanted. ``descending``: newest first."""

    limit: int = _DEFAULT_LIMIT
    descending: bool = True
    after: str | None = None
    before: str | None = None

    def of(self, items: Sequence[Json]) -> Json:
        """Return the list object for ``items``, which come oldest first. ``ApiError`` 400 for a cursor that names none."""
        ordered = list(reversed(items)) if self.descending else list(items)
        ids = [item["id"] for item in ordered]
        start = 0 if self.after is None else _position(ids, self.after, "after") + 1
        end = len(ids) if self.before is None else _position(ids, self.before, "before")
        shown = ordered[start:end]
        page = shown[: self.limit]
        return listed(page, has_more=len(shown) > len(page))


def listed(data: Sequence[Json], *, has_more: bool) -> Json:
    """Return the list object for a page."""
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": has_more,
    }


def read_page(
    call: Call,
    *,
    default_order: str = "desc",
    parameters: Sequence[str] = _PARAMETERS,
    also: Sequence[str] = (),
    default_limit: int = _DEFAULT_LIMIT,
    max_limit: int = _MAX_LIMIT,
) -> Page:
    """Return the page that the URL's query names; ``ApiError`` 400 for a value that is not allowed.

    ``parameters`` are those of this list, ``also`` further ones that the route reads itself. ``include`` has no effect:
    items are always whole here.
    """
    given = dict(query_parameters(call))
    check_includes(query_parameters(call))
    limit = given.get("limit", str(default_limit))
    if not (limit.isdigit() and limit.isascii() and len(limit) <= len(str(max_limit)) and 1 <= int(limit) <= max_limit):
        raise problems.bad_request(
            f"Invalid 'limit': expected an integer from 1 to {max_limit:,}, but got {limit!r} instead.",
            "limit",
            "invalid_value",
        )
    order = given.get("order", default_order)
    if order not in {"asc", "desc"}:
        raise problems.not_in_enum("order", order, ("asc", "desc"))
    for name in given:
        if name not in {*parameters, *also}:
            raise problems.unknown(name, ())
    return Page(int(limit), order == "desc", given.get("after"), given.get("before"))


def _position(ids: Sequence[str], wanted: str, name: str) -> int:
    if wanted not in ids:
        raise problems.bad_request(f"Invalid '{name}': no item with id '{wanted}'.", name, "invalid_value")
    return ids.index(wanted)
