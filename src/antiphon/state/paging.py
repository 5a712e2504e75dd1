"""One page of a list, read from its table: its rows and one more, whatever the list's length."""

from collections.abc import Sequence
from typing import Any, Protocol

from sqlalchemy import ColumnElement, Row, Select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from antiphon.protocol import problems


class PageQuery(Protocol):
    """What part of a list is wanted, as the route read it. ``after`` and ``before`` are ids."""

    @property
    def limit(self) -> int: ...
    @property
    def descending(self) -> bool: ...
    @property
    def after(self) -> str | None: ...
    @property
    def before(self) -> str | None: ...


class Listing:
    """A list in a table. ``wanted`` selects all of it, ``key`` orders it, oldest first, and ``name`` is the ids' column.

    An index must hold the columns of the conditions and of ``key``, and one those of the conditions and ``name``.
    """

    def __init__(
        self,
        wanted: Select[*tuple[Any, ...]],
        key: Sequence[ColumnElement[Any]],
        name: ColumnElement[str],
        query: PageQuery,
    ) -> None:
        self._wanted = wanted
        self._key = key
        self._name = name
        self._query = query

    async def bound(self, connection: AsyncConnection) -> Select[*tuple[Any, ...]]:
        """Return the statement for all rows between the cursors, in order. ``ApiError`` 400 for a cursor that names none."""
        query, wanted = self._query, self._wanted
        for cursor, parameter, is_older in (
            (query.after, "after", query.descending),
            (query.before, "before", not query.descending),
        ):
            if cursor is None:
                continue
            place = self._wanted.with_only_columns(*self._key).where(self._name == cursor).limit(1)
            found = (await connection.execute(place)).first()
            if found is None:
                raise problems.bad_request(
                    f"Invalid '{parameter}': no item with id '{cursor}'.", parameter, "invalid_value"
                )
            wanted = wanted.where(self._beyond(found, is_older=is_older))
        return wanted.order_by(*(one.desc() if query.descending else one for one in self._key))

    def behind(self, row: Row[*tuple[Any, ...]]) -> ColumnElement[bool]:
        """Return the condition for what follows ``row``, which has the columns of the key."""
        return self._beyond([getattr(row, one.key or "") for one in self._key], is_older=self._query.descending)

    def _beyond(self, place: Sequence[Any], *, is_older: bool) -> ColumnElement[bool]:
        here, there = tuple_(*self._key), tuple_(*place)
        return here < there if is_older else here > there
