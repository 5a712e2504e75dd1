"""The engine's socket: reads requests, checks and tokenises them off the step thread, and sends answers back."""

import asyncio
import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import msgspec

from antiphon.engine.ipc.messages import (
    Answer,
    Cancel,
    Delta,
    Failed,
    Finished,
    Generate,
    ModelInfo,
    Prefilled,
    Ready,
    Request,
)
from antiphon.engine.ipc.wire import FrameError, decode_request, frame, read_frame


class Work(Protocol):
    """What the loop runs; opaque here."""

    @property
    def key(self) -> tuple[int, int]:
        """Connection and request id."""
        ...


_FIRST_INTERVAL_S, _WEIGHT = 1.0, 0.1
"""Time between ends of texts, a moving average: when the queue is full, about then a place becomes free."""

W = TypeVar("W", bound=Work)


class Service(Protocol[W]):
    """What stands behind the socket."""

    @property
    def max_requests(self) -> int:
        """Choices that may run and wait together."""
        ...

    def prepare(self, connection: int, request: Request, arrived: float) -> W | Answer:
        """Check and tokenise one request, on a thread of its own: what is to run, or the answer.

        ``arrived`` is when it came, on the monotonic clock.
        """
        ...

    def warm_up(self) -> None:
        """Do beforehand what the first request would wait for; on the thread of ``prepare``."""
        ...

    def submit(self, work: W) -> None:
        """Start what ``prepare`` returned."""
        ...

    def cancel(self, connection: int, request: int | None = None) -> None:
        """Stop one request, or all of a connection's."""
        ...


class Listener(Generic[W]):
    """Accepts connections on a Unix socket. Everything here runs in one event loop, but for ``send``."""

    def __init__(self, info: ModelInfo, service: Service[W]) -> None:
        self._info = info
        self._service = service
        self._tokenisers = ThreadPoolExecutor(1, thread_name_prefix="tokenise")
        self._writers: dict[int, asyncio.StreamWriter] = {}
        self._open: dict[tuple[int, int], int] = {}
        self._preparing: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._next_connection = 0
        self.num_refused = 0
        self._last_end = time.monotonic()
        self._interval_s = _FIRST_INTERVAL_S

    async def serve(self, path: Path) -> asyncio.Server:
        """Start listening on ``path``."""
        self._loop.run_in_executor(self._tokenisers, self._service.warm_up)
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
            case _:
                self._open.pop(key, None)
        now = time.monotonic()
        if self._open:
            self._interval_s += _WEIGHT * (now - self._last_end - self._interval_s)
        self._last_end = now

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection, self._next_connection = self._next_connection, self._next_connection + 1
        self._writers[connection] = writer
        writer.write(frame([Ready(self._info)]))
        try:
            while (body := await read_frame(reader)) is not None:
                self._request(connection, decode_request(body))
        except (FrameError, msgspec.DecodeError, ConnectionError):
            pass
        finally:
            del self._writers[connection]
            self._open = {key: left for key, left in self._open.items() if key[0] != connection}
            self._service.cancel(connection)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    def _request(self, connection: int, request: Request) -> None:
        if isinstance(request, Cancel):
            self._open.pop((connection, request.id), None)
            self._service.cancel(connection, request.id)
            return
        if (connection, request.id) in self._open:
            raise FrameError(f"two requests with the id {request.id}")
        num_choices = request.n if isinstance(request, Generate) else 1
        most = self._service.max_requests
        if num_choices > most:
            message = f"n is {num_choices}, but at most {most} texts run and wait here together"
            self._send([(connection, Failed(request.id, "invalid", message))])
            return
        num_open = sum(self._open.values())
        if num_open + num_choices > most:
            self.num_refused += 1
            message = f"the queue is full: {num_open} texts are being generated or wait for it"
            self._send([(connection, Failed(request.id, "overloaded", message, retry_after_s=self._interval_s))])
            return
        self._open[connection, request.id] = num_choices
        task = asyncio.create_task(self._prepare(connection, request, time.monotonic()))
        self._preparing.add(task)
        task.add_done_callback(self._preparing.discard)

    async def _prepare(self, connection: int, request: Request, arrived: float) -> None:
        prepared: W | Answer
        try:
            prepare = self._service.prepare
            prepared = await self._loop.run_in_executor(self._tokenisers, prepare, connection, request, arrived)
        except Exception as error:  # noqa: BLE001 - whatever it is, the request must have an answer
            prepared = Failed(request.id, "internal", f"the request could not be prepared: {error!r}")
        if (connection, request.id) not in self._open:
            return
        if isinstance(prepared, Answer):
            self._send([(connection, prepared)])
        else:
            self._service.submit(prepared)
