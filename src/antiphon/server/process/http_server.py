"""Listens, starts the engines, serves, and ends cleanly.

The port is open while models load (``/health`` says so), so that a supervisor can watch. On SIGINT or SIGTERM nothing new
is taken; running requests get ``shutdown_grace_s``, then an error; then every engine process is ended and awaited.
"""

import asyncio
import errno
import gc
import signal
import socket
import threading
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from typing import Any

import uvicorn

from antiphon.errors import AntiphonError
from antiphon.server.app import create_app
from antiphon.server.service import Service
from antiphon.server.settings import ServerSettings

_BACKLOG = 2048
_COLLECT_AFTER = 20_000
"""Objects that the youngest generation may grow by; Python's own 700 is about two requests."""
_CUT_SHORT_S = 3.0
"""How long answers may take to end once their engines are closed."""


def bind(settings: ServerSettings) -> socket.socket:
    """Return a listening socket; an ``AntiphonError`` that names the way out where that is impossible."""
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
        # While it is bound alone others may bind it too. Whoever connects before the loop runs waits.
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
    """Take what the start made out of the garbage collector's sight, and let it look for cycles seldom; once per process.

    A request makes some hundred objects and leaves hardly a cycle, and looking costs a third of the processor's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER, 20, 20)


class HttpServer(uvicorn.Server):
    """Uvicorn, with an end in two steps: ask requests to finish, then fail those that are left."""

    def __init__(self, service: Service) -> None:
        grace_s = service.settings.shutdown_grace_s
        super().__init__(
            uvicorn.Config(
                create_app(service),
                loop="none",
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=75,
                timeout_graceful_shutdown=round(grace_s + _CUT_SHORT_S) + 1,
            )
        )
        self._service = service
        self._grace_s = grace_s

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Catch SIGINT and SIGTERM; an end by signal is an orderly end here, so nothing is raised again afterwards."""
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

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        cut_short = asyncio.get_running_loop().create_task(self._cut_short())
        try:
            await super().shutdown(sockets)
        finally:
            cut_short.cancel()

    async def _cut_short(self) -> None:
        await asyncio.sleep(self._grace_s)
        await self._service.backend.aclose()


async def serve(
    service: Service,
    listener: socket.socket,
    start: Callable[[], Coroutine[Any, Any, None]],
    *,
    stop: asyncio.Event | None = None,
) -> None:
    """Serve until a signal ends it, or ``stop`` is set.

    ``start`` begins to load the models while the port is already open; its failure ends the server and is raised.
    """
    server = HttpServer(service)
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
