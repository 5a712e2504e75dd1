"""The engine's socket: reads requests, has them prepared off the step thread, and sends answers back."""

import asyncio
import contextlib
import time
from pathlib import Path

import msgspec

from antiphon.engine.ipc.messages import (
    Answer,
    Cancel,
    Delta,
    Failed,
    Finished,
    Generate,
    Prefill,
    Prefilled,
    PrefillEnded,
    Ready,
    Request,
)
from antiphon.engine.ipc.wire import FrameError, decode_request, frame, read_frame
from antiphon.engine.worker.core import EngineCore

_FIRST_INTERVAL_S, _WEIGHT = 1.0, 0.1
"""Time between the ends of choices, a moving average: when the queue is full, a place becomes free after about that."""
_Key = tuple[int, int]
"""Connection and request id."""


class Listener:
    """Accepts connections on a Unix socket. Everything here runs in one event loop, except ``send``."""

    def __init__(self, core: EngineCore) -> None:
        self._core = core
        self._writers: dict[int, asyncio.StreamWriter] = {}
        self._open: dict[_Key, int] = {}
        """Choices of each request that have not ended."""
        self._preparing: dict[_Key, asyncio.Task[None]] = {}
        self._loop = asyncio.get_running_loop()
        self._next_connection = 0
        self.num_refused = 0
        self._last_end = time.monotonic()
        self._interval_s = _FIRST_INTERVAL_S

    async def serve(self, path: Path) -> asyncio.Server:
        """Start listening on ``path``."""
        self._core.warm_up()
        return await asyncio.start_unix_server(self._connection, path)

    def send(self, answers: list[tuple[int, Answer]]) -> None:
        """Send answers on, from any thread."""
        self._loop.call_soon_threadsafe(self._send, answers)

    def _send(self, answers: list[tuple[int, Answer]]) -> None:
        by_connection: dict[int, list[Answer]] = {}
        for connection, answer in answers:
            self._count_down(connection, answer)
            by_connection.setdefault(connection, []).append(answer)
        for connection, batch in by_connection.items():
            writer = self._writers.get(connection)
            if writer is not None:
                writer.write(frame(batch))

    def _count_down(self, connection: int, answer: Answer) -> None:
        key = (connection, answer.id)
        match answer:
            case Prefilled() | Delta() | Failed(kind="overloaded"):
                return
            case Finished() if self._open.get(key, 1) > 1:
                self._open[key] -= 1
            case PrefillEnded():
                self._open.pop(key, None)
                return
            case _:
                self._open.pop(key, None)
        now = time.monotonic()
        if self._open:
            self._interval_s += _WEIGHT * (now - self._last_end - self._interval_s)
        self._last_end = now

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection, self._next_connection = self._next_connection, self._next_connection + 1
        self._writers[connection] = writer
        writer.write(frame([Ready(self._core.info)]))
        try:
            while (body := await read_frame(reader)) is not None:
                self._request(connection, decode_request(body))
                del body  # it may be large, and the next one may not come for hours
        except (FrameError, msgspec.DecodeError, ConnectionError):
            pass
        finally:
            del self._writers[connection]
            for key in [key for key in self._open if key[0] == connection]:
                self._forget(key)
            self._core.cancel(connection)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    def _request(self, connection: int, request: Request) -> None:
        key = connection, request.id
        if isinstance(request, Cancel):
            self._forget(key)
            self._core.cancel(connection, request.id)
            return
        if key in self._open:
            raise FrameError(f"two requests with the id {request.id}")
        refusal = self._refusal(request)
        if refusal is not None:
            self._send([(connection, refusal)])
            return
        self._open[key] = _num_choices(request)
        task = self._preparing[key] = asyncio.create_task(self._prepare(key, request, time.monotonic()))
        task.add_done_callback(lambda done: self._prepared(key, done))

    def _prepared(self, key: _Key, done: "asyncio.Task[None]") -> None:
        if self._preparing.get(key) is done:  # a cancelled request's id may be in use again
            del self._preparing[key]

    def _refusal(self, request: Request) -> Failed | None:
        """Return the answer to a request that there is no room for."""
        num_choices, most = _num_choices(request), self._core.max_requests
        if num_choices > most:
            message = f"n is {num_choices}, but at most {most} choices run and wait here together"
            return Failed(request.id, "invalid", message)
        num_open = sum(self._open.values())
        if num_open + num_choices > most:
            self.num_refused += 1
            message = f"the queue is full: {num_open} choices run or wait"
            return Failed(request.id, "overloaded", message, retry_after_s=self._interval_s)
        return None

    def _forget(self, key: _Key) -> None:
        """Stop counting and preparing a request."""
        self._open.pop(key, None)
        task = self._preparing.pop(key, None)
        if task is not None:
            task.cancel()

    async def _prepare(self, key: _Key, request: Request, arrived: float) -> None:
        connection, number = key
        try:
            prepared = await self._core.prepare(connection, request, arrived)
        except Exception as error:  # noqa: BLE001 - whatever it is, the request must have an answer
            prepared = Failed(number, "internal", f"the request could not be prepared: {error!r}")
        if isinstance(prepared, Answer):
            self._send([(connection, prepared)])
        else:
            prepared()


def _num_choices(request: Request) -> int:
    if isinstance(request, Prefill):
        return 0  # it makes room for any other request
    return request.n if isinstance(request, Generate) else 1
