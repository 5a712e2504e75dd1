"""Work that runs side by side under one budget."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from antiphon.toolkit.errors import BudgetExceededError

T = TypeVar("T")


class UnderWay:
    """Runs work; what the budget does not cover now is tried again when other work has ended.

    Calls reserve the most that they can cost, which is more than they will have cost. Without this, the last part of a
    budget would be refused while it is only reserved.
    """

    def __init__(self) -> None:
        self._num_running = 0
        self._ended = asyncio.Event()

    async def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Await ``work()``; raises BudgetExceededError only if nothing else runs whose end could make room."""
        while True:
            self._num_running += 1
            try:
                return await work()
            except BudgetExceededError:
                if self._num_running == 1:
                    raise
            finally:
                self._num_running -= 1
                self._ended.set()
            self._ended.clear()
            await self._ended.wait()
