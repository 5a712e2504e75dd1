"""Single-flight: identical concurrent requests are computed once and share the answer."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Generic, TypeVar

from antiphon.protocol.errors import overloaded

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """Runs ``source`` in a task of its own and stores what it yields.

    It runs while at least one reader is left, whether or not that is the first; when the last one leaves, it is stopped.
    """

    def __init__(self, source: AsyncGenerator[T]) -> None:
        self.items: list[T] = []
        self.is_complete = False
        self._source = source
        self._error: Exception | None = None
        self._changed = asyncio.Event()
        self._num_readers = 0
        self.task = asyncio.ensure_future(self._run())

    @property
    def is_open(self) -> bool:
        """Whether another reader may still join."""
        return not self.task.done() and not self.task.cancelling()

    async def read(self, *, pays: bool = False) -> AsyncGenerator[T]:
        """Yield everything from the first item on; raises what the source raised. Joins when the first item is asked for.

        ``pays``: this reader is charged for the work. If it leaves early while others are reading, it waits until the work ends, so
        that the whole answer is charged to its account.
        """
        self._num_readers += 1
        place = 0
        try:
            while True:
                while place < len(self.items):
                    place += 1
                    yield self.items[place - 1]
                if self._error is not None:
                    raise self._error
                if self.is_complete:
                    return
                await self._changed.wait()
        finally:
            self._num_readers -= 1
            if self._num_readers == 0 and not self.task.done():
                self.task.cancel()
                await asyncio.wait({self.task})
            elif pays and not self.task.done():
                await asyncio.wait({self.task})

    async def _run(self) -> None:
        try:
            async with aclosing(self._source) as source:
                async for item in source:
                    self.items.append(item)
                    self._tell()
            self.is_complete = True
        except asyncio.CancelledError:
            self._error = overloaded(1)
            raise
        except Exception as error:  # noqa: BLE001 - raised again for each reader
            self._error = error
        finally:
            self._tell()

    def _tell(self) -> None:
        """Wake the readers that wait now; those that come later wait for the next change."""
        self._changed.set()
        self._changed = asyncio.Event()
