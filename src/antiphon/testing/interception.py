"""Requests of every httpx2 client of the process go to a handler in place of the network."""

from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import httpx2

Send = Callable[[httpx2.Request], httpx2.Response]
AsyncSend = Callable[[httpx2.Request], Awaitable[httpx2.Response]]
SyncHandler = Callable[[httpx2.Request, Send], httpx2.Response]
AsyncHandler = Callable[[httpx2.Request, AsyncSend], Awaitable[httpx2.Response]]


class UnexpectedRequestError(BaseException):
    """The application sent a request that the test did not expect.

    Not an ``Exception``: the client would try again, and an application's ``except Exception`` would hide it.
    """


@contextmanager
def intercepted(handle: SyncHandler, handle_async: AsyncHandler) -> Generator[None]:
    """Give the requests of all httpx2 clients to the handlers until the block ends, also of clients made before it.

    A handler gets the request, its body read, and a function that sends it over the network after all. Clients with a
    transport of their own (a ``MockTransport``, an ASGI application, aiohttp) are left alone.
    """
    send, send_async = httpx2.HTTPTransport.handle_request, httpx2.AsyncHTTPTransport.handle_async_request

    def handle_request(transport: Any, request: httpx2.Request) -> httpx2.Response:
        request.read()
        return handle(request, lambda passed: send(transport, passed))

    async def handle_async_request(transport: Any, request: httpx2.Request) -> httpx2.Response:
        await request.aread()
        return await handle_async(request, lambda passed: send_async(transport, passed))

    with (
        mock.patch.object(httpx2.HTTPTransport, "handle_request", handle_request),
        mock.patch.object(httpx2.AsyncHTTPTransport, "handle_async_request", handle_async_request),
    ):
        yield
