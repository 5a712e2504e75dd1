"""The live feed: what happened in the last half second, as server-sent events. It costs nothing while nobody listens."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import msgspec

from antiphon.accounts import Accounts
from antiphon.accounts.usage import UsageRow
from antiphon.protocol.errors import ApiError
from antiphon.server.console.views import live_view, row_view
from antiphon.server.request.live import LiveRequests

Json = dict[str, Any]

_EVERY_S = 0.5
_MAX_ROWS = 100
"""Requests in one event; of more, only the number is sent, and a page reads the list again."""
_MAX_LIVE = 200
_MAX_BEHIND = 20
"""Events that wait for a listener that does not read; then it is let go, and its page connects again."""
_COMMENT_AFTER = 20
"""Half seconds without an event after which a comment keeps the connection open."""
_CHECK_EVERY_S = 2.0
"""How often a listener's session is checked while events come: a revoked key sees no more."""


class Feed:
    """Observes the server for its listeners. ``parts`` returns what else a page shows live: engines, a fetch of a model.

    ``close`` ends every stream, so that a server that ends does not wait for open pages.
    """

    def __init__(self, accounts: Accounts, live: LiveRequests, parts: Callable[[], Json]) -> None:
        self._accounts = accounts
        self._live = live
        self._parts = parts
        self._listeners: set[asyncio.Queue[bytes | None]] = set()
        self._rows: list[UsageRow] = []
        self._num_more = 0
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False

    @property
    def num_listeners(self) -> int:
        """How many pages are open."""
        return len(self._listeners)

    def close(self) -> None:
        """End every stream."""
        self._is_closed = True
        for queue in self._listeners:
            _put(queue, None)

    async def listen(self, may_go_on: Callable[[], Awaitable[object]]) -> AsyncGenerator[bytes]:
        """Yield the events from now on; the first at once. Closing the generator stops listening.

        ``may_go_on`` is awaited now and then; the events end when it raises ``ApiError``: the session is over.
        """
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        if self._is_closed:
            return
        self._begin(queue)
        try:
            yield self._frame(self._event([], 0))
            checked_at = time.monotonic()
            while (frame := await queue.get()) is not None:
                if time.monotonic() - checked_at > _CHECK_EVERY_S:
                    await may_go_on()
                    checked_at = time.monotonic()
                yield frame
        except ApiError:
            return
        finally:
            self._end(queue)

    def _begin(self, queue: asyncio.Queue[bytes | None]) -> None:
        if not self._listeners:
            self._accounts.listeners.append(self._note)
            self._task = asyncio.create_task(self._run(), name="antiphon-console-feed")
        self._listeners.add(queue)

    def _end(self, queue: asyncio.Queue[bytes | None]) -> None:
        self._listeners.discard(queue)
        if not self._listeners and self._task is not None:
            self._accounts.listeners.remove(self._note)
            self._task.cancel()
            self._task = None
            self._rows, self._num_more = [], 0

    def _note(self, row: UsageRow) -> None:
        if len(self._rows) < _MAX_ROWS:
            self._rows.append(row)
        else:
            self._num_more += 1

    async def _run(self) -> None:
        last, num_idle = b"", 0
        while True:
            await asyncio.sleep(_EVERY_S)
            rows, self._rows = self._rows, []
            num_more, self._num_more = self._num_more, 0
            event = self._event(rows, num_more)
            body = msgspec.json.encode(event)
            num_idle = num_idle + 1 if body == last else 0
            if num_idle and num_idle % _COMMENT_AFTER:
                continue
            last = body
            self._send(b": still here\n\n" if num_idle else self._frame(event))

    def _event(self, rows: list[UsageRow], num_more: int) -> Json:
        names = {row.key_id: self._accounts.key_name(row.key_id) for row in rows}
        live = [live_view(call, request) for call, request in list(self._live)[:_MAX_LIVE]]
        return {
            "live": live,
            "num_live": len(self._live),
            "finished": [row_view(row, names[row.key_id]) for row in rows],
            "num_more": num_more,
            **self._parts(),
        }

    def _frame(self, event: Json) -> bytes:
        return b"data: " + msgspec.json.encode({"at": time.time(), **event}) + b"\n\n"

    def _send(self, frame: bytes) -> None:
        for queue in self._listeners:
            _put(queue, None if queue.qsize() >= _MAX_BEHIND else frame)


def _put(queue: asyncio.Queue[bytes | None], frame: bytes | None) -> None:
    queue.put_nowait(frame)
