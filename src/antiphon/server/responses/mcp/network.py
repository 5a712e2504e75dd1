"""The HTTP transport to MCP servers: connects to allowed addresses only, and reads no more than it should.

The check is made where the connection is made, on the address that is then connected to: neither a redirect nor a name that
resolves differently the second time gets around it. Proxies of the environment are not used, since they would hide the address.
"""

import asyncio
import socket
from collections.abc import AsyncGenerator, Iterable
from ipaddress import ip_address
from typing import Any, cast

import httpcore2
import httpx2

from antiphon.server.responses.mcp.hosts import McpHosts

MAX_ANSWER_BYTES = 8 * 1024 * 1024
"""Bytes of one HTTP answer of an MCP server."""
_CONNECT_S = 10.0


class AddressRefused(httpcore2.ConnectError):
    """The server's settings do not allow a connection to this host or address."""


class AnswerTooLarge(httpx2.ReadError):
    """An MCP server sent more than ``MAX_ANSWER_BYTES``."""


class _CheckedBackend(httpcore2.AsyncNetworkBackend):
    def __init__(self, hosts: McpHosts) -> None:
        self._hosts = hosts
        # Its own types hide the class where anyio is not installed.
        self._inner: httpcore2.AsyncNetworkBackend = cast("Any", httpcore2.AnyIOBackend)()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the interface's own
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        if not self._hosts.allows(host, port):
            raise AddressRefused(f"this server may not connect to {host!r}: [responses] mcp_hosts does not list it")
        addresses = [address for address in await _resolve(host, port) if self._may_connect(host, address)]
        if not addresses:
            raise AddressRefused(
                f"{host!r} is not on the public internet, and [responses] mcp_hosts does not list its address"
            )
        failure: Exception | None = None
        for address in addresses:
            try:
                return await self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        assert failure is not None
        raise failure

    def _may_connect(self, host: str, address: str) -> bool:
        return self._hosts.allows_address(host, ip_address(address.partition("%")[0]))


async def _resolve(host: str, port: int) -> list[str]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise httpcore2.ConnectError(f"the name {host!r} does not resolve") from error
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class _BoundedStream(httpx2.AsyncByteStream):
    def __init__(self, inner: httpx2.AsyncByteStream) -> None:
        self._inner = inner

    async def __aiter__(self) -> AsyncGenerator[bytes]:
        num_bytes = 0
        async for chunk in self._inner:
            num_bytes += len(chunk)
            if num_bytes > MAX_ANSWER_BYTES:
                raise AnswerTooLarge(f"the MCP server sent more than {MAX_ANSWER_BYTES} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._inner.aclose()


class _CheckedTransport(httpx2.AsyncHTTPTransport):
    def __init__(self, hosts: McpHosts) -> None:
        super().__init__(trust_env=False)
        context = httpx2.create_ssl_context(trust_env=False)
        self._pool = httpcore2.AsyncConnectionPool(ssl_context=context, network_backend=_CheckedBackend(hosts))

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await super().handle_async_request(request)
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _BoundedStream(response.stream)
        return response


def mcp_http_client(hosts: McpHosts, headers: dict[str, str], timeout_s: float) -> httpx2.AsyncClient:
    """Return a client that reaches allowed MCP servers only. ``timeout_s`` bounds each wait for more of an answer."""
    return httpx2.AsyncClient(
        transport=_CheckedTransport(hosts),
        headers=headers,
        timeout=httpx2.Timeout(timeout_s, connect=_CONNECT_S),
        trust_env=False,
        follow_redirects=False,
    )
