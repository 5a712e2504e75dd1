"""Calling a function of the application from the event loop: async functions in it, plain ones in a thread."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import anyio.to_thread

from antiphon.toolkit.tools.tool_schema import definition_of


class StopIterationInToolError(Exception):
    """A StopIteration, which no coroutine can raise."""


async def invoke(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call ``function`` and return its result, or raise what it raises.

    Cancelling cancels an async function. A plain one runs in a worker thread, and is left to end there by itself.
    """
    if inspect.iscoroutinefunction(definition_of(function)):
        return await function(*args, **kwargs)
    raised: list[BaseException] = []

    def call() -> Any:
        # Caught in the thread: a future cannot carry every exception, StopIteration for one.
        try:
            return function(*args, **kwargs)
        except BaseException as error:  # noqa: BLE001 - raised again below
            raised.append(error)

    result = await anyio.to_thread.run_sync(call, abandon_on_cancel=True)
    if raised:
        first = raised[0]
        raise (first if not isinstance(first, StopIteration) else StopIterationInToolError(*first.args)) from first
    return await result if inspect.isawaitable(result) else result
