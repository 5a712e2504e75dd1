"""Listens, starts the engines, serves, and ends cleanly.

The port is open while models load (``/health`` says so), so that a supervisor can watch. After SIGINT or SIGTERM the server
accepts no new requests; running requests have ``shutdown_grace_s`` to finish, then they fail; then every engine process ends.
Five seconds after the grace time the process is gone in any case (``deadline.py``).
"""

import asyncio
import errno
import gc
import math
import signal
import socket
import threading
from collections.abc import Callable, Coroutine, Generator, Iterable
from contextlib import contextmanager
from importlib.util import find_spec
from types import FrameType
from typing import Any

import uvicorn

from antiphon.errors import AntiphonError
from antiphon.server.app import create_app
from antiphon.server.process.deadline import END_S, end_within
from antiphon.server.process.http_protocol import HttpProtocol
from antiphon.server.service import Service
from antiphon.server.settings import ServerSettings

_BACKLOG = 2048
_COLLECT_AFTER = 20_000
"""New objects before a collection; Python's default of 700 is about two requests."""
_PING_S = 20.0
"""How often a WebSocket is pinged, and how long the answer may take."""
_CUT_SHORT_S = 2
"""How long answers may take to end once their engines are closed."""


def bind(settings: ServerSettings) -> socket.socket:
    """Return a listening socket; ``AntiphonError`` with a hint where that is impossible."""
    try:
        family, kind, number, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return _listening(socket.socket(family, kind, number), address)
    except OSError as error:
        hint = "choose another with --port, or --port 0 for a free one" if error.errno == errno.EADDRINUSE else ""
        raise AntiphonError(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}", hint=hint
        ) from error


def _listening(listener: socket.socket, address: Any) -> socket.socket:
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # A socket that is only bound may be bound again by another process. Clients that connect before the loop runs wait.
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def address_of(listener: socket.socket) -> str:
    """Return the URL of the API behind a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/v1" if ":" in host else f"http://{host}:{port}/v1"


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return uvloop's loop where it exists, else the standard one."""
    try:
        import uvloop  # noqa: PLC0415 - not made for every platform
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def collect_seldom() -> None:
    """Exempt the objects made at start from garbage collection, and collect rarely; call it once per process.

    A request makes some hundred objects and hardly a cycle; collecting at Python's default rate costs a third of the
    processor's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER, 20, 20)


class HttpServer(uvicorn.Server):
    """Uvicorn with a shutdown in two steps: let requests finish, then fail those that are left."""

    def __init__(self, service: Service, children: Callable[[], Iterable[int]] = tuple) -> None:
        grace_s = service.settings.shutdown_grace_s
        super().__init__(
            uvicorn.Config(
                create_app(service),
                loop="none",
                http=HttpProtocol,
                ws=_websocket_protocol(),
                ws_max_size=service.settings.max_body_bytes,
                # A message inflates to a thousand times its size; what clients send is not worth that.
                ws_per_message_deflate=False,
                ws_ping_interval=_PING_S,
                ws_ping_timeout=_PING_S,
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=75,
                timeout_graceful_shutdown=math.ceil(grace_s) + _CUT_SHORT_S,
            )
        )
        self._service = service
        self._grace_s = grace_s
        self._children = children

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Catch SIGINT and SIGTERM; a signal ends the server in order, so it is not raised again afterwards."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        end_within(self._grace_s + END_S, self._children)
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._service.end_feeds()
        cut_short = asyncio.get_running_loop().create_task(self._cut_short())
        try:
            await super().shutdown(sockets)
        finally:
            cut_short.cancel()

    async def _cut_short(self) -> None:
        await asyncio.sleep(self._grace_s)
        await self._service.backend.aclose()


def _websocket_protocol() -> Any:
    """Return the protocol of WebSocket connections; "none" where the package for it is missing, and clients fall back to HTTP."""
    if find_spec("websockets") is None:
        return "none"
    from antiphon.server.process.websocket_protocol import WebSocketProtocol  # noqa: PLC0415 - imports that package

    return WebSocketProtocol


async def serve(
    service: Service,
    listener: socket.socket,
    start: Callable[[], Coroutine[Any, Any, None]],
    *,
    stop: asyncio.Event | None = None,
    children: Callable[[], Iterable[int]] = tuple,
) -> None:
    """Serve until a signal ends it, or ``stop`` is set.

    ``start`` begins to load the models while the port is already open; its failure ends the server and is raised.
    ``children`` are the processes to kill if the server does not end in time.
    """
    server = HttpServer(service, children)
    http = asyncio.ensure_future(server.serve(sockets=[listener]))
    loading = asyncio.ensure_future(start())
    stopping = asyncio.ensure_future(_stop_on(stop, server))
    try:
        await asyncio.wait({http, loading}, return_when=asyncio.FIRST_COMPLETED)
        if loading.done() and loading.exception() is not None:
            server.should_exit = True
        await http
        if loading.done():
            loading.result()
    finally:
        for task in (loading, stopping):
            task.cancel()
        await asyncio.gather(loading, stopping, return_exceptions=True)
        await service.backend.aclose()


async def _stop_on(stop: asyncio.Event | None, server: HttpServer) -> None:
    if stop is not None:
        await stop.wait()
        server.should_exit = True
