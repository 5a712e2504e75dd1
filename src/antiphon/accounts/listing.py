"""One page of a list, read from its table: its rows and one more, whatever the list's length."""

from collections.abc import Sequence
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, RowMapping, Select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from antiphon.protocol.paging import PageQuery, no_such_cursor

T = TypeVar("T")


class Listing:
    """A list in a table. ``whole`` selects all of it, ``key`` orders it, oldest first, and ``name`` is the ids' column.

    ``narrowed`` are conditions for what is shown. A cursor need not meet them: what it names may have changed since.
    An index must hold the columns of the conditions and of ``key``, and one those of the conditions and ``name``.
    """

    def __init__(
        self,
        whole: Select[*tuple[Any, ...]],
        key: Sequence[ColumnElement[Any]],
        name: ColumnElement[str],
        query: PageQuery,
        narrowed: Sequence[ColumnElement[bool]] = (),
    ) -> None:
        self._whole = whole
        self._key = key
        self._name = name
        self._query = query
        self._narrowed = narrowed
        self._goes_down = query.descending != query.is_backward

    async def page(self, connection: AsyncConnection) -> tuple[list[RowMapping], bool]:
        """Return the rows of the page in order, and whether there are more in its direction. ``ApiError`` 400: see ``rows``."""
        rows = await self.rows(connection)
        return self.shown((await connection.execute(rows.limit(self._query.limit + 1))).mappings().all())

    async def rows(self, connection: AsyncConnection) -> Select[*tuple[Any, ...]]:
        """Return the statement for all rows between the cursors, those of the page first.

        ``ApiError`` 400 for a cursor that names none.
        """
        query, rows = self._query, self._whole.where(*self._narrowed)
        for cursor, parameter, is_older in (
            (query.after, "after", query.descending),
            (query.before, "before", not query.descending),
        ):
            if cursor is None:
                continue
            place = self._whole.with_only_columns(*self._key).where(self._name == cursor).limit(1)
            found = (await connection.execute(place)).first()
            if found is None:
                raise no_such_cursor(parameter, cursor)
            rows = rows.where(self._beyond(found, is_older=is_older))
        return rows.order_by(*(one.desc() if self._goes_down else one for one in self._key))

    def behind(self, row: RowMapping) -> ColumnElement[bool]:
        """Return the condition for what follows ``row``, one of ``rows`` that has the columns of the key."""
        return self._beyond([row[one] for one in self._key], is_older=self._goes_down)

    def shown(self, rows: Sequence[T]) -> tuple[list[T], bool]:
        """Return the page in order, and whether there are more, from what ``rows`` begins with: the page and one more."""
        page = list(rows[: self._query.limit])
        return page[::-1] if self._query.is_backward else page, len(rows) > len(page)

    def _beyond(self, place: Sequence[Any], *, is_older: bool) -> ColumnElement[bool]:
        here, there = tuple_(*self._key), tuple_(*place)
        return here < there if is_older else here > there
