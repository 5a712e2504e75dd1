"""Pages of lists, as OpenAI's: the query that asks for one, and the object that answers it."""

from collections.abc import Sequence
from typing import Any

from antiphon.protocol import problems
from antiphon.protocol.paging import PageQuery, no_such_cursor
from antiphon.server.request.call import Call
from antiphon.server.request.query import query_values, refuse_query

Json = dict[str, Any]
_MAX_LIMIT = 100
_DEFAULT_LIMIT = 20
_PARAMETERS = ("limit", "order", "after", "before", "include")


def read_page(
    call: Call,
    *,
    default_order: str = "desc",
    parameters: Sequence[str] = _PARAMETERS,
    also: Sequence[str] = (),
    default_limit: int = _DEFAULT_LIMIT,
    max_limit: int = _MAX_LIMIT,
) -> PageQuery:
    """Return the page that the URL's query names; ``ApiError`` 400 for a value that is not allowed.

    ``parameters`` are those of this list, ``also`` further ones that the route reads itself. ``include`` has no effect:
    items are always whole here.
    """
    refuse_query(call, but=(*parameters, *also))
    given = query_values(call)
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
    return PageQuery(limit=int(limit), descending=order == "desc", after=given.get("after"), before=given.get("before"))


def page_of(items: Sequence[Json], query: PageQuery) -> Json:
    """Return the list object for a page of ``items``, which come oldest first. ``ApiError`` 400 for a cursor that names none."""
    ordered = list(reversed(items)) if query.descending else list(items)
    ids = [item["id"] for item in ordered]
    start = 0 if query.after is None else _position(ids, query.after, "after") + 1
    end = len(ids) if query.before is None else _position(ids, query.before, "before")
    between = ordered[start:end]
    page = between[-query.limit :] if query.is_backward else between[: query.limit]
    return listed(page, has_more=len(between) > len(page))


def listed(data: Sequence[Json], *, has_more: bool) -> Json:
    """Return the list object for a page."""
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": has_more,
    }


def _position(ids: Sequence[str], wanted: str, name: str) -> int:
    if wanted not in ids:
        raise no_such_cursor(name, wanted)
    return ids.index(wanted)
