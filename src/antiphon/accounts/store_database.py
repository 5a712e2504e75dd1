"""The accounts' database as a store uses it: what the database refuses is a 503 that says what cannot be reached."""

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from antiphon.accounts.errors import store_unreachable


class StoreDatabase:
    """``engine`` is owned by its creator. ``what`` names it to a client, such as "database of files"."""

    def __init__(self, engine: AsyncEngine, what: str) -> None:
        self.engine = engine
        self._what = what

    @contextmanager
    def errors(self) -> Generator[None]:
        """Turn what the database says in the block into ``ApiError`` 503."""
        try:
            yield
        except (SQLAlchemyError, OSError) as error:
            raise store_unreachable(self._what) from error

    @asynccontextmanager
    async def reading(self) -> AsyncGenerator[AsyncConnection]:
        """Give a connection; what is changed by it is undone at the end. ``ApiError`` 503."""
        with self.errors():
            async with self.engine.connect() as connection:
                yield connection

    @asynccontextmanager
    async def writing(self) -> AsyncGenerator[AsyncConnection]:
        """Give a connection in a transaction, which is committed at the end of the block. ``ApiError`` 503."""
        with self.errors():
            async with self.engine.begin() as connection:
                yield connection
