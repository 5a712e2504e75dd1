"""Ends the work on a request when its client disconnects."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from antiphon.server.request.asgi import ClientGone
from antiphon.server.request.call import Call


async def until_gone(call: Call, work: Coroutine[Any, Any, None], after: asyncio.Event | None = None) -> None:
    """Do ``work`` unless the client disconnects first; then cancel it and raise ``ClientGone``.

    What is left of the work when the whole answer is sent is done: the answer was not given up.
    ``after`` is set once the body has been read, where ``work`` reads it; until then ``work`` itself notices the end.
    """
    departure = _Departure(call, after)
    try:
        await work
    except asyncio.CancelledError:
        if departure.was_noticed():
            raise ClientGone from None
        raise
    finally:
        await departure.aclose()


class _Departure:
    """Cancels the current task when the client disconnects. A separate task for the work would begin a turn of the loop later."""

    def __init__(self, call: Call, after: asyncio.Event | None) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._call = call
        self._is_over = self._is_gone = False
        self._watcher = asyncio.ensure_future(_disconnected(call, after))
        self._watcher.add_done_callback(self._leave)

    def was_noticed(self) -> bool:
        """Whether this object alone cancelled the task."""
        return self._is_gone and self._task.cancelling() == 1

    async def aclose(self) -> None:
        self._is_over = True
        if self._is_gone:
            self._task.uncancel()
        if not self._watcher.done():
            self._watcher.cancel()
            await asyncio.wait({self._watcher})

    def _leave(self, watcher: "asyncio.Future[None]") -> None:
        if not self._is_over and not watcher.cancelled() and not self._call.is_answered:
            self._is_gone = True
            self._task.cancel()


async def _disconnected(call: Call, after: asyncio.Event | None) -> None:
    if after is not None:
        await after.wait()
    await call.wait_disconnect()
