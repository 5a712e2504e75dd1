"""Which MCP servers the server connects to: the allow-list, and the address that a name really has."""

import asyncio
import http.server
import threading
from collections.abc import Generator
from contextlib import AsyncExitStack, contextmanager
from ipaddress import ip_address
from typing import Any

import httpx2 as httpx
import pytest
from tests.server.mcp_server import mcp_server

from antiphon.server.request.body import shown_body
from antiphon.server.responses.mcp.hosts import McpHosts
from antiphon.server.responses.mcp.network import MAX_ANSWER_BYTES, AnswerTooLarge, mcp_http_client
from antiphon.server.responses.mcp.session import McpFailure, McpSession, http_connection

PUBLIC = ("8.8.8.8", "2606:4700::1111")
PRIVATE = (
    "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
    "255.255.255.255", "::1", "::", "fe80::1", "fd00::1", "ff02::1", "::ffff:10.0.0.1", "64:ff9b::a00:1",
    "2002:a00:1::", "2001:0:0:0:0:0:f5ff:fffe",
)  # fmt: skip


@pytest.mark.parametrize(
    ("entries", "host", "port", "is_allowed"),
    [
        ((), "mcp.example.com", 443, False),
        (("mcp.example.com",), "mcp.example.com", 443, True),
        (("mcp.example.com",), "MCP.example.com.", 8443, True),
        (("mcp.example.com",), "evil-mcp.example.com", 443, False),
        (("mcp.example.com:8443",), "mcp.example.com", 8443, True),
        (("mcp.example.com:8443",), "mcp.example.com", 443, False),
        (("*.example.com",), "a.b.example.com", 443, True),
        (("*.example.com",), "example.com", 443, False),
        (("*.example.com",), "badexample.com", 443, False),
        (("*",), "anything.test", 443, True),
        (("*",), "10.0.0.1", 443, False),
        (("*",), "8.8.8.8", 443, True),
        (("10.0.0.0/8",), "10.0.0.1", 443, True),
        (("10.0.0.0/8",), "11.0.0.1", 443, False),
        (("127.0.0.1",), "127.0.0.1", 80, True),
        (("127.0.0.1",), "127.0.0.2", 80, False),
    ],
)
def test_hosts_are_allowed_by_the_list_alone(entries: tuple[str, ...], host: str, port: int, is_allowed: bool) -> None:
    """By name, by name and port, by domain, by address, by network."""
    assert McpHosts(entries).allows(host, port) is is_allowed


@pytest.mark.parametrize("address", PRIVATE)
def test_a_listed_name_does_not_lead_to_a_private_address(address: str) -> None:
    """Whatever a name resolves to, an address off the public internet has to be listed itself."""
    hosts = McpHosts(("*", "mcp.example.com"))
    assert not hosts.allows_address("mcp.example.com", ip_address(address))
    assert McpHosts(("mcp.example.com", address)).allows_address("mcp.example.com", ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_needs_no_entry(address: str) -> None:
    """The name is enough."""
    assert McpHosts(("mcp.example.com",)).allows_address("mcp.example.com", ip_address(address))


def test_localhost_is_this_machine_and_nothing_else() -> None:
    """The name allows loopback addresses, for itself only."""
    hosts = McpHosts(("localhost",))
    assert hosts.allows_address("localhost", ip_address("::1"))
    assert not hosts.allows_address("mcp.example.com", ip_address("127.0.0.1"))
    assert not hosts.allows_address("localhost", ip_address("10.0.0.1"))


def list_tools(url: str, hosts: McpHosts, timeout_s: float = 20) -> int:
    async def ask() -> int:
        session = McpSession(http_connection(url, {}, hosts, timeout_s), timeout_s)
        try:
            return len(await session.list_tools(128))
        finally:
            await session.aclose()

    return asyncio.run(ask())


def test_the_connection_is_checked_and_not_only_the_name() -> None:
    """``*`` allows the name localhost, and its address is refused where the connection is made."""
    with mcp_server() as up:
        url = up.url.replace("127.0.0.1", "localhost")
        assert list_tools(url, McpHosts(("localhost",))) > 0
        num_requests = len(up.seen)
        with pytest.raises(McpFailure, match="not on the public internet"):
            list_tools(url, McpHosts(("*",)))
        assert len(up.seen) == num_requests


@contextmanager
def answers(status: int, location: str = "", body: bytes = b"") -> Generator[tuple[str, list[str]]]:
    """A server that gives every POST the same answer; yields its address and the paths asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            asked.append(self.path)
            self.send_response(status)
            if location:
                self.send_header("location", location)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_request(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/mcp", asked
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_leads_to_no_other_server(status: int) -> None:
    """The other server is not asked, whether it is allowed or not."""
    with answers(200) as (other, asked), answers(status, location=other) as (url, _):
        with pytest.raises(McpFailure):
            list_tools(url, McpHosts(("127.0.0.1",)))
        assert asked == []


def test_an_answer_without_end_is_cut() -> None:
    """No more than the bound is read."""

    async def ask(url: str) -> None:
        async with mcp_http_client(McpHosts(("127.0.0.1",)), {}, 20) as client:
            await client.post(url, content=b"{}")

    with answers(200, body=b"x" * (MAX_ANSWER_BYTES + 1)) as (url, _), pytest.raises(AnswerTooLarge):
        asyncio.run(ask(url))


def test_a_server_that_does_not_answer_is_given_up() -> None:
    """The time of one question is bounded, and the session can be asked again."""
    silent = threading.Event()

    class Silent(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            silent.wait(60)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Silent) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with pytest.raises(McpFailure, match="did not answer"):
            list_tools(f"http://127.0.0.1:{server.server_address[1]}/mcp", McpHosts(("127.0.0.1",)), timeout_s=0.3)
        silent.set()
        server.shutdown()
        thread.join()


def test_a_goodbye_that_does_not_end_is_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The response does not wait for it longer than the bound."""
    monkeypatch.setattr("antiphon.server.responses.mcp.session._CLOSE_S", 0.05)
    said: list[str] = []

    async def ask(url: str) -> None:
        async def say_goodbye() -> None:
            said.append("begun")
            try:
                await asyncio.Event().wait()
            finally:
                said.append("cut")

        async def connect(stack: AsyncExitStack) -> Any:
            stack.push_async_callback(say_goodbye)
            return await http_connection(url, {}, McpHosts(("127.0.0.1",)), 20)(stack)

        session = McpSession(connect, 20)
        assert await session.list_tools(128)
        await session.aclose()

    with mcp_server() as up:
        asyncio.run(ask(up.url))
    assert said == ["begun", "cut"]


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy would connect to an address that nobody checked."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")

    async def ask(url: str) -> int:
        async with mcp_http_client(McpHosts(("127.0.0.1",)), {}, 20) as client:
            return (await client.post(url, content=b"{}")).status_code

    with answers(200, body=b"{}") as (url, _):
        assert asyncio.run(ask(url)) == httpx.codes.OK


@pytest.mark.parametrize(
    "body",
    [
        b'{"tools": [{"type": "mcp", "server_label": "a", "authorization": "SECRET", "server_url": "http://h/SECRET"}]}',
        b'{"input": [{"type": "additional_tools", "tools": [{"type": "mcp", "server_label": "a", "headers": {"k": "SECRET"}}]}]}',
        b'{"tools": [{"type": "mcp", "server_label": "a", "authorization": "SECRET"',
    ],
)
def test_bodies_in_the_log_and_in_the_console_hide_what_is_for_mcp_servers(body: bytes) -> None:
    """Also with ``log_prompts``, which shows everything else."""
    assert b"SECRET" not in shown_body(body)
    assert shown_body(b'{"a": 1}') == b'{"a": 1}'
