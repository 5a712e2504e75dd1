"""Tasks that live and end together, whose first error passes through as it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

T = TypeVar("T")


@asynccontextmanager
async def all_or_none(work: Iterable[Coroutine[Any, Any, T]]) -> AsyncGenerator[list[asyncio.Task[T]]]:
    """Start ``work``; when the block is left, by an error or a cancellation too, no task goes on unseen.

    Unlike ``asyncio.TaskGroup`` it wraps no error into a group: the caller awaits the tasks and meets their errors.
    """
    tasks = [asyncio.ensure_future(coroutine) for coroutine in work]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
