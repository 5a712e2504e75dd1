"""WebSockets that are forwarded to an upstream: the handshake, messages both ways, limits, and how either side may end."""

import asyncio
import base64
import json
import os
import socket
import struct
import tracemalloc
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx2 as httpx
import openai
import pytest
from aiohttp import WSMsgType, web
from tests.backends.recording_api import RecordingApi, echo_socket, recording_api
from tests.server.test_forwarding import new_key, paths_of_the_client
from tests.serving import Running, outcomes_of, running
from tests.waiting import PATIENCE_S, until
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from antiphon.accounts import AccountSettings, Outcome, Principal
from antiphon.backends.routing import Router, RouteSettings, TargetSettings
from antiphon.backends.scripted.backend import ScriptedBackend
from antiphon.backends.scripted.script import Script
from antiphon.backends.settings import GatewaySettings, SocketSettings
from antiphon.backends.upstream import UpstreamBackend, UpstreamModel, UpstreamSettings
from antiphon.server.process.websocket_protocol import WebSocketProtocol

pytestmark = pytest.mark.anyio

UsesSocket = Callable[[web.WebSocketResponse], Awaitable[None]]


class Front(NamedTuple):
    api: RecordingApi
    server: Running
    outcomes: list[Outcome]

    @property
    def root(self) -> str:
        return self.server.root.replace("http:", "ws:")

    def open(self, path: str = "/v1/realtime?model=m", **options: Any) -> connect:
        return connect(self.root + path, max_size=None, compression=None, ping_interval=None, **options)


@asynccontextmanager
async def front(
    home: Path,
    handler: Any = echo_socket,
    *,
    default: str | None = None,
    routes: tuple[RouteSettings, ...] = (),
    sockets: SocketSettings | None = None,
    accounts: AccountSettings | None = None,
    **settings: Any,
) -> AsyncGenerator[Front]:
    async with recording_api(handler) as api:
        upstream = UpstreamSettings(
            name="api", base_url=api.url, api_key_env="UPSTREAM_KEY", models=(UpstreamModel(id="m"),)
        )
        backends = {
            "local": ScriptedBackend(Script(models=("here",))),
            "api": UpstreamBackend(upstream, environ={"UPSTREAM_KEY": "sk-upstream"}),
        }
        gateway = GatewaySettings(
            upstreams=(upstream,), default_upstream=default, websockets=sockets or SocketSettings()
        )
        with running(Router(backends, routes), home, gateway=gateway, accounts=accounts, **settings) as server:
            outcomes = outcomes_of(server)
            yield Front(api, server, outcomes)


def answering(use: UsesSocket, **prepared: Any) -> Any:
    """A handler that accepts a WebSocket and gives it to ``use``."""

    async def handle(request: web.Request, _: bytes) -> web.StreamResponse:
        made = web.WebSocketResponse(autoping=False, autoclose=False, max_msg_size=0, **prepared)
        await made.prepare(request)
        await use(made)
        return made

    return handle


async def test_messages_pass_both_ways_as_they_are(tmp_path: Path) -> None:
    """Text in every script, bytes, nothing, and 16 MB in one message or in many fragments."""
    large = os.urandom(16_000_000)
    messages: list[str | bytes] = ["hello", "", b"", "\u0000\U0001f600 äöü", bytes(range(256)), large]
    messages.append(base64.b64encode(large[:3_000_000]).decode())
    async with front(tmp_path) as up, up.open() as ws:
        for message in messages:
            await ws.send(message)
            assert await ws.recv() == message
        await ws.send([large[at : at + 1_000_000] for at in range(0, len(large), 1_000_000)])
        assert await ws.recv() == large
        pong = await ws.ping(b"are you there")
        await pong


async def test_the_handshake_carries_what_is_the_upstreams_and_no_more(tmp_path: Path) -> None:
    """Path, query, headers of meaning and subprotocols go on; the key, the account and headers of the connection do not."""

    async def talk(ws: web.WebSocketResponse) -> None:
        await ws.send_str("hi")
        await ws.receive()

    async with front(tmp_path, answering(talk, protocols=("realtime",))) as up:
        secret = "openai-insecure-api-key.sk-mine"
        async with up.open(
            "/v1/realtime?model=m&x=a%20b",
            subprotocols=[
                "realtime",
                secret,
                "openai-organization.org-1",
                "openai-project.p",
                "openai-beta.realtime-v1",
            ],
            additional_headers={
                "openai-beta": "realtime=v1",
                "openai-organization": "org-1",
                "cookie": "a=b",
                "x-antiphon-priority": "x",
            },
        ) as ws:
            assert await ws.recv() == "hi"
            assert ws.subprotocol == "realtime"
        [received] = up.api.requests
        assert received.path == "/v1/realtime?model=m&x=a%20b"
        assert received.headers["authorization"] == "Bearer sk-upstream"
        assert received.headers["sec-websocket-protocol"] == "realtime, openai-beta.realtime-v1"
        assert received.headers["openai-beta"] == "realtime=v1"
        assert (
            not {"cookie", "openai-organization", "x-antiphon-priority", "sec-websocket-extensions"}
            & received.headers.keys()
        )
        assert "sk-mine" not in str(received)


async def test_every_path_of_the_client_can_be_a_websocket(tmp_path: Path) -> None:
    """Whatever an upstream answers over one: path and query arrive as they were sent, and a message comes back as it went."""
    paths = sorted({path.partition("?")[0] for _, path in paths_of_the_client()} - {"/v1/responses"})
    assert len(paths) > 60
    async with front(tmp_path, default="api") as up:
        for path in paths:
            async with up.open(f"{path}?after=a%20b&x%5B%5D=1") as ws:
                await ws.send(path)
                assert await ws.recv() == path
            assert up.api.requests[-1].path == f"{path}?after=a%20b&x%5B%5D=1"
            assert up.api.requests[-1].headers["authorization"] == "Bearer sk-upstream"


@pytest.mark.parametrize(
    ("target", "more", "status"),
    [
        (b"/v1/x?model=m", b"content-length: 5\r\n", 400),
        (b"/v1/x?model=m", b"transfer-encoding: chunked\r\n", 400),
        (b"/v1/x?model=m", b"content-length: 5\r\n\r\nhello", 400),
        (b"/v1/x#frag?model=m", b"", 400),
        (b"/v1/x?model=m#frag", b"", 400),
        (b"/v1/\xc3\xa9?model=m", b"", 400),
        (b"http://evil.example/v1/x?model=m", b"", 404),
        (b"/v1/x?model=m", b"sec-websocket-protocol: a b, ,\r\n", 400),
        (b"/v1/x?model=m", b"sec-websocket-version: 12\r\n", 400),
    ],
)
async def test_an_odd_request_for_a_websocket_is_refused_at_once(
    tmp_path: Path, target: bytes, more: bytes, status: int
) -> None:
    """It is not left open, it is not sent on, and it does not disturb the server's end."""
    async with front(tmp_path, default="api") as up:
        host, port = up.server.root.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            b"GET " + target + f" HTTP/1.1\r\nhost: {host}:{port}\r\n".encode() + b"connection: Upgrade\r\n"
            b"upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            + more
            + b"\r\n"
        )
        async with asyncio.timeout(PATIENCE_S):
            answer = await reader.read()
        writer.close()
        assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer
        assert not up.api.requests


async def test_a_page_gives_its_key_as_a_subprotocol(tmp_path: Path) -> None:
    """Pages can set no header; without any key, with a wrong one, or from a foreign page there is no handshake."""
    key = new_key(tmp_path, Principal(name="alice"))
    async with front(tmp_path) as up:
        for path in ("/v1/realtime?model=m", "/v1/responses"):
            async with up.open(path, subprotocols=["realtime", f"openai-insecure-api-key.{key}"]):
                pass
            assert await refused(up, path, subprotocols=["realtime"]) == (401, None)
            wrong = ["realtime", "openai-insecure-api-key.sk-wrong"]
            assert await refused(up, path, subprotocols=wrong) == (401, "invalid_api_key")
            evil = {"origin": "https://evil.example"}
            assert await refused(up, path, additional_headers=evil) == (403, "origin_not_allowed")
        assert all(key not in str(received) for received in up.api.requests)


async def refused(up: Front, path: str = "/v1/realtime?model=m", **options: Any) -> tuple[int, str | None]:
    """The status and the error code of a connection that is refused before its handshake."""
    with pytest.raises(InvalidStatus) as caught:
        async with up.open(path, **options):
            pass
    body = caught.value.response.body
    assert body is not None
    return caught.value.response.status_code, json.loads(bytes(body))["error"]["code"]


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, (400, "bad")),
        (404, (404, "bad")),
        (426, (426, "bad")),
        (429, (429, "bad")),
        (500, (500, "bad")),
        (401, (502, "upstream_credentials")),
        (403, (502, "upstream_credentials")),
        (200, (502, "upstream_protocol_error")),
        (204, (502, "upstream_protocol_error")),
        (302, (502, "upstream_protocol_error")),
    ],
)
async def test_a_refusal_of_the_upstream_comes_before_the_handshake(
    tmp_path: Path, status: int, expected: tuple[int, str]
) -> None:
    """With its own status and words, but for what concerns only this server; a redirect is not followed with our key."""

    async def refuse(request: web.Request, _: bytes) -> web.StreamResponse:
        headers = {"location": str(request.url.with_path("/elsewhere")), "retry-after": "3"}
        body = {"error": {"message": "no sk-upstream", "code": "bad"}}
        return web.json_response(None if status == 204 else body, status=status, headers=headers)

    async with front(tmp_path, refuse) as up:
        assert await refused(up) == expected
        assert len(up.api.requests) == 1
        with pytest.raises(InvalidStatus) as caught:
            async with up.open():
                pass
        assert b"sk-upstream" not in bytes(caught.value.response.body or b"")
        if status == 429:
            assert caught.value.response.headers["retry-after"] == "3"


async def test_what_cannot_be_connected_to_is_a_502(tmp_path: Path) -> None:
    """An upstream that is down, one that closes, and one that speaks something else."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    upstream = UpstreamSettings(name="api", base_url=f"http://127.0.0.1:{port}/v1", models=(UpstreamModel(id="m"),))
    router = Router({"api": UpstreamBackend(upstream)})
    with running(router, tmp_path, gateway=GatewaySettings(upstreams=(upstream,))) as server:
        up = Front(RecordingApi(), server, [])
        assert await refused(up) == (502, "upstream_unreachable")
        for said, code in ((b"", "upstream_disconnected"), (b"\x00\x01\x02\r\n\r\n", "upstream_protocol_error")):

            async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter, said: bytes = said) -> None:
                writer.write(said)
                writer.close()

            async with await asyncio.start_server(serve, "127.0.0.1", port):
                assert await refused(up) == (502, code)


async def test_who_may_connect_where(tmp_path: Path) -> None:
    """A model that nobody serves, one of this machine, another account's object, a key for other models."""
    narrow = new_key(tmp_path, Principal(name="narrow", models=("other*",)))
    wide = new_key(tmp_path, Principal(name="wide"))
    async with front(tmp_path, default="api") as up:
        mine = {"authorization": f"Bearer {wide}"}
        theirs = {"authorization": f"Bearer {narrow}"}
        assert await refused(up, "/v1/realtime?model=m", additional_headers=theirs) == (404, "model_not_found")
        assert await refused(up, "/v1/realtime", additional_headers=theirs) == (403, "model_required")
        assert await refused(up, "/v1/realtime?model=m&model=x", additional_headers=mine) == (400, "invalid_value")
        assert await refused(up, "/other", additional_headers=mine) == (404, "unknown_url")
        assert await refused(up, "/v1/a/%2e%2e/b?model=m", additional_headers=mine) == (400, "invalid_path")
        assert not up.api.requests
        async with up.open("/v1/realtime/calls", additional_headers=mine):
            pass
        named = {**mine, "x-antiphon-upstream": "api"}
        async with up.open("/v1/responses", additional_headers=named):
            pass
        assert [received.path for received in up.api.requests] == ["/v1/realtime/calls", "/v1/responses"]
    async with front(tmp_path) as up:
        assert await refused(up, "/v1/realtime", additional_headers=mine) == (404, "unknown_url")
        assert await refused(up, "/v1/realtime?model=none", additional_headers=mine) == (404, "model_not_found")


async def test_a_route_renames_the_model_in_the_query(tmp_path: Path) -> None:
    """And changes nothing else in it."""
    route = RouteSettings(model="voice", targets=(TargetSettings(backend="api", model="gpt-realtime/2 b"),))
    async with front(tmp_path, routes=(route,)) as up:
        async with up.open("/v1/realtime?a=%2B&model=voice&b"):
            pass
        assert up.api.requests[-1].path == "/v1/realtime?a=%2B&model=gpt-realtime%2F2%20b&b"


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1008, "policy ü"), (3000, "own"), (4999, "x" * 123)])
async def test_the_code_and_the_reason_of_a_close_pass_on(tmp_path: Path, code: int, reason: str) -> None:
    """From the client to the upstream, and from the upstream to the client."""
    seen: list[tuple[int | None, str | None]] = []

    async def talk(ws: web.WebSocketResponse) -> None:
        message = await ws.receive()
        if message.type is WSMsgType.TEXT:
            await ws.close(code=code, message=reason.encode())
        else:
            seen.append((message.data, message.extra))

    async with front(tmp_path, answering(talk)) as up:
        async with up.open() as ws:
            await ws.close(code, reason)
        await until(lambda: bool(seen))
        assert seen == [(code, reason)]
        async with up.open() as ws:
            await ws.send("close")
            with pytest.raises(ConnectionClosed) as closed:
                await ws.recv()
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (code, reason)


async def closed_by_server(ws: ClientConnection) -> tuple[int, str]:
    async with asyncio.timeout(PATIENCE_S):
        closed: ConnectionClosed | None = None
        while closed is None:
            try:
                await ws.recv()
            except ConnectionClosed as error:
                closed = error
    assert closed.rcvd is not None, closed
    return closed.rcvd.code, closed.rcvd.reason


def frame(opcode: int, data: bytes, *, is_last: bool = True, rsv1: bool = False, length: int | None = None) -> bytes:
    """A frame as a server sends it; ``length`` announces another size than that of ``data``."""
    size = len(data) if length is None else length
    head = bytes([(0x80 if is_last else 0) | (0x40 if rsv1 else 0) | opcode])
    return head + (bytes([size]) if size < 126 else b"\x7f" + struct.pack("!Q", size)) + data


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"", "closed the connection"),
        (frame(1, b"abc", length=100), "closed the connection"),
        (frame(1, b"abc", is_last=False), "closed the connection"),
        (frame(1, b"\xff\xfe"), "invalid answer"),
        (frame(1, b"abc", rsv1=True), "invalid answer"),
        (frame(3, b"abc"), "invalid answer"),
        (frame(8, b"\x03"), "invalid answer"),
        (frame(2, b"", length=40_000_000), "invalid answer"),
        (b"HTTP/1.1 200 OK\r\n\r\n" * 9, "invalid answer"),
    ],
    ids=[
        "cut",
        "cut in a frame",
        "cut in a message",
        "utf-8",
        "compressed",
        "opcode",
        "close",
        "too large",
        "not frames",
    ],
)
async def test_an_upstream_that_fails_is_a_1011_with_a_reason(tmp_path: Path, sent: bytes, reason: str) -> None:
    """Whatever it does, the client is closed in order, and what was sent before has arrived."""

    async def handle(request: web.Request, _: bytes) -> web.StreamResponse:
        ws = web.WebSocketResponse(autoclose=False)
        await ws.prepare(request)
        await ws.send_str("before")
        assert request.transport is not None
        request.transport.write(sent)
        if not sent or reason == "closed the connection":
            request.transport.close()
        await ws.receive()
        return ws

    async with front(tmp_path, handle) as up, up.open() as ws:
        assert await ws.recv() == "before"
        code, said = await closed_by_server(ws)
        assert code == 1011
        assert reason in said


async def test_a_client_that_leaves_ends_the_upstreams_connection(tmp_path: Path) -> None:
    """In order, cut off, or with frames that nobody may send; the responses that ran are its own to end."""
    ended: list[int] = []

    async def talk(ws: web.WebSocketResponse) -> None:
        while not ws.closed:
            message = await ws.receive()
            if message.type in {WSMsgType.CLOSE, WSMsgType.CLOSED, WSMsgType.CLOSING, WSMsgType.ERROR}:
                ended.append(message.data if message.type is WSMsgType.CLOSE else -1)
                return

    create = json.dumps({"type": "response.create"})
    async with front(tmp_path, answering(talk)) as up:
        for leave in ("close", "abort", "frame"):
            num = len(ended)
            async with up.open() as ws:
                await ws.send(create)
                await until(lambda: up.server.service.in_flight.count == 1)
                if leave == "abort":
                    ws.transport.abort()
                elif leave == "frame":
                    ws.transport.write(b"\x83\x00")
                else:
                    await ws.close()
            await until(lambda num=num: len(ended) == num + 1)
            await until(lambda num=num: len(up.outcomes) == num + 1)
        assert [outcome.status for outcome in up.outcomes] == [499] * 3
        await until(lambda: up.server.service.in_flight.count == 0)


def realtime(usage: dict[str, Any] | None = None, status: str = "completed") -> UsesSocket:
    """An upstream that answers each ``response.create``, and begins a response by itself when it hears sound."""

    async def talk(ws: web.WebSocketResponse) -> None:
        num = 0
        await ws.send_json({"type": "session.created", "session": {"id": "sess_1", "model": "m"}})
        async for message in ws:
            event = json.loads(message.data)
            if event["type"] == "break":
                await ws.send_json({"type": "error", "error": {"message": "no"}})
            if event["type"] in {"response.create", "input_audio_buffer.append"}:
                num += 1
                made = {"id": f"resp_{num}", "object": "realtime.response", "status": "in_progress", "usage": None}
                await ws.send_json({"type": "response.created", "response": made})
                await ws.send_json({"type": "response.output_text.delta", "delta": "hi"})
                await ws.send_json({"type": "response.done", "response": {**made, "status": status, "usage": usage}})

    return talk


USAGE = {
    "total_tokens": 30,
    "input_tokens": 20,
    "output_tokens": 10,
    "input_token_details": {"cached_tokens": 5, "text_tokens": 20, "audio_tokens": 0},
    "output_token_details": {"text_tokens": 10, "audio_tokens": 0},
}


async def events_until(ws: ClientConnection, kind: str) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    async with asyncio.timeout(PATIENCE_S):
        while not events or events[-1]["type"] != kind:
            events.append(json.loads(await ws.recv()))
    return events


async def test_the_ledger_has_each_response_that_the_upstream_reports(tmp_path: Path) -> None:
    """Those that the client asked for, and those that the upstream began when the speaker paused."""
    async with front(tmp_path, answering(realtime(USAGE))) as up, up.open() as ws:
        for kind in ("response.create", "input_audio_buffer.append", "response.create"):
            await ws.send(json.dumps({"type": kind}))
            await events_until(ws, "response.done")
        await until(lambda: len(up.outcomes) == 3)
        for outcome in up.outcomes:
            usage = outcome.usage
            assert (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens) == (20, 10, 5)
            assert (outcome.model, outcome.status) == ("m", 200)


async def test_the_official_client_talks_in_real_time(tmp_path: Path) -> None:
    """``realtime.connect(model=...)``, with its own headers, and events that it reads into its types."""
    async with (
        front(tmp_path, answering(realtime(USAGE))) as up,
        openai.AsyncOpenAI(base_url=up.server.url, api_key="any", max_retries=0) as client,
        client.realtime.connect(model="m") as connection,
    ):
        await connection.response.create()
        kinds: list[str] = []
        async for event in connection:
            kinds.append(event.type)
            if event.type == "response.done":
                assert event.response.usage is not None
                assert event.response.usage.input_tokens == 20
                break
        assert kinds == ["session.created", "response.created", "response.output_text.delta", "response.done"]
        await until(lambda: len(up.outcomes) == 1)


async def test_an_error_of_the_upstream_ends_the_response_that_had_not_begun(tmp_path: Path) -> None:
    """The row says so, and nothing stays in flight."""

    async def talk(ws: web.WebSocketResponse) -> None:
        await ws.receive()
        await ws.send_json({"type": "error", "error": {"message": "no", "code": "bad"}})
        await ws.receive()

    async with front(tmp_path, answering(talk)) as up, up.open() as ws:
        await ws.send(json.dumps({"type": "response.create"}))
        await events_until(ws, "error")
        await until(lambda: len(up.outcomes) == 1)
        assert (up.outcomes[0].status, up.outcomes[0].error_code) == (502, "upstream_error")
        assert up.server.service.in_flight.count == 0


async def test_a_keys_limits_hold_for_each_response(tmp_path: Path) -> None:
    """One that is asked for gets an error event; one that the upstream begins by itself ends the connection."""
    limits = AccountSettings(rpm=2)
    async with front(tmp_path, answering(realtime(USAGE)), accounts=limits) as up, up.open() as ws:
        await events_until(ws, "session.created")
        for _ in range(2):
            await ws.send(json.dumps({"type": "response.create"}))
            await events_until(ws, "response.done")
        await ws.send(json.dumps({"type": "response.create", "event_id": "mine"}))
        [error] = await events_until(ws, "error")
        assert (error["status"], error["error"]["code"]) == (429, "rate_limit_exceeded")
        assert error["error"]["event_id"] == "mine"
        await ws.send(json.dumps({"type": "input_audio_buffer.append"}))
        code, reason = await closed_by_server(ws)
        assert code == 1008
        assert "Rate limit" in reason


async def test_a_key_for_certain_models_names_no_other_in_its_messages(tmp_path: Path) -> None:
    """Wherever in the message, twice, or with escapes; the connection goes on."""
    key = new_key(tmp_path, Principal(name="narrow", models=("m",)))
    hostile = [
        '{"type": "response.create", "model": "other"}',
        '{"type": "session.update", "session": {"audio": {"input": {"transcription": {"model": "other"}}}}}',
        '{"type": "response.create", "model": "other", "model": "m"}',
        '{"type": "response.create", "mod\\u0065l": "other"}',
    ]
    async with (
        front(tmp_path) as up,
        up.open(additional_headers={"authorization": f"Bearer {key}"}) as ws,
    ):
        for text in (*hostile, *(text.encode() for text in hostile)):
            await ws.send(text)
            error = json.loads(await ws.recv())
            assert (error["type"], error["error"]["code"]) == ("error", "model_not_found")
        allowed = '{"type": "session.update", "session": {"model": "m"}}'
        await ws.send(allowed)
        assert await ws.recv() == allowed


def reads_after(reading: asyncio.Event) -> UsesSocket:
    """An upstream that reads from then on, and answers each message with its length."""

    async def talk(ws: web.WebSocketResponse) -> None:
        await reading.wait()
        async for message in ws:
            await ws.send_str(str(len(message.data)))

    return talk


async def test_messages_on_their_way_count_as_held(tmp_path: Path) -> None:
    """Until the upstream has taken them; one that the memory has no room for is an error event, and the connection goes on."""
    reading = asyncio.Event()
    async with front(tmp_path, answering(reads_after(reading)), max_body_bytes=16_000_000) as up, up.open() as ws:
        bodies = up.server.service.bodies
        await ws.send(bytes(15_000_000))
        await until(lambda: bodies.num_bytes_held == 15_000_000)
        reading.set()
        assert await ws.recv() == "15000000"
        await until(lambda: bodies.num_bytes_held == 0)
        bodies.num_bytes_held = 8 * 16_000_000 - 3
        await ws.send("four")
        error = json.loads(await ws.recv())
        assert (error["type"], error["status"]) == ("error", 503)
        await ws.send("two")
        assert await ws.recv() == "3"
        bodies.num_bytes_held -= 8 * 16_000_000 - 3
        await until(lambda: bodies.num_bytes_held == 0)


async def test_a_key_for_certain_models_sends_no_more_values_than_can_be_read(tmp_path: Path) -> None:
    """As over HTTP: a model may be named in any of them."""
    key = new_key(tmp_path, Principal(name="narrow", models=("m",)))
    async with front(tmp_path) as up, up.open(additional_headers={"authorization": f"Bearer {key}"}) as ws:
        await ws.send('{"type": "session.update", "x": [' + "{}," * 400_001 + "{}]}")
        error = json.loads(await ws.recv())
        assert (error["status"], error["error"]["code"]) == (413, "request_too_large")


async def test_small_fragments_take_no_more_memory_than_their_bytes(tmp_path: Path) -> None:
    """Also where there are tens of thousands of them, or where most are empty."""
    num = 30_000
    fragments = b"\x00\x82\x00\x00\x00\x00ab" * num + b"\x00\x80\x00\x00\x00\x00" * num
    async with front(tmp_path) as up, up.open() as ws:
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            ws.transport.write(b"\x01\x82\x00\x00\x00\x00ab" + fragments)
            await (await ws.ping())
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert after - before < 500_000
        ws.transport.write(b"\x80\x81\x00\x00\x00\x00c")
        assert await ws.recv() == "ab" * (num + 1) + "c"


async def test_connections_are_bounded_in_all_and_for_each_key(tmp_path: Path) -> None:
    """Further ones get a 429 or a 503 before the handshake; a place is free again once its connection has ended."""
    keys = [new_key(tmp_path, Principal(name=name)) for name in ("alice", "bob", "carol")]
    headers = [{"authorization": f"Bearer {key}"} for key in keys]
    async with (
        front(tmp_path, sockets=SocketSettings(max_open=3, max_per_key=2)) as up,
        up.open(additional_headers=headers[0]) as first,
        up.open(additional_headers=headers[0]),
    ):
        assert await refused(up, additional_headers=headers[0]) == (429, "rate_limit_exceeded")
        async with up.open(additional_headers=headers[1]):
            assert (await refused(up, additional_headers=headers[2]))[0] == 503
        await first.close()
        await until_open(up, headers[0])


async def until_open(up: Front, headers: dict[str, str]) -> None:
    """Connect; the place of a connection that has just ended may be free a moment later."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                async with up.open(additional_headers=headers):
                    return
            except InvalidStatus:
                continue


async def test_thousands_of_small_messages_let_others_have_their_turn(tmp_path: Path) -> None:
    """They come in one read, and another connection is answered long before the last of them, which arrives, too."""
    num = 40_000
    async with front(tmp_path) as up, up.open() as many, up.open() as other:
        many.transport.write(b"\x81\x81\x00\x00\x00\x00x" * num)
        num_read = 0
        await other.send("quick")
        answered = asyncio.ensure_future(other.recv())
        num_before: int | None = None
        while num_read < num:
            assert await many.recv() == "x"
            num_read += 1
            if answered.done() and num_before is None:
                num_before = num_read
        assert await answered == "quick"
        assert num_before is not None
        assert num_before < num


async def test_a_compressed_message_is_refused_unread(tmp_path: Path) -> None:
    """Compression is never negotiated, so a message cannot inflate: a frame that says it is compressed ends the connection."""
    bomb = zlib.compress(bytes(10_000_000))
    async with front(tmp_path) as up:
        async with connect(up.root + "/v1/realtime?model=m", compression="deflate") as ws:
            assert ws.protocol.extensions == []
            ws.transport.write(bytes([0xC2, 0xFE]) + struct.pack("!H", len(bomb)) + bytes(4) + bomb)
            assert (await closed_by_server(ws))[0] == 1002
        assert "sec-websocket-extensions" not in up.api.requests[-1].headers


async def test_a_client_is_not_taken_for_lost_while_its_messages_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answer to a ping is behind them, and is read once the upstream takes them."""
    protocols: list[WebSocketProtocol] = []
    accepted = WebSocketProtocol.start_keepalive

    def start(self: WebSocketProtocol) -> None:
        protocols.append(self)
        accepted(self)

    monkeypatch.setattr(WebSocketProtocol, "start_keepalive", start)
    reading = asyncio.Event()
    async with front(tmp_path, answering(reads_after(reading))) as up, up.open() as ws:
        [protocol] = protocols
        await ws.send(bytes(15_000_000))
        await ws.send("waits")
        await until(lambda: up.server.service.bodies.num_bytes_held > 0 and protocol.read_paused)
        up.server.loop.call_soon_threadsafe(protocol.keepalive_timeout)
        await until(lambda: protocol.pong_timer is not None or protocol.close_sent)
        reading.set()
        assert [await ws.recv(), await ws.recv()] == ["15000000", "5"]


@pytest.mark.parametrize(("num_bytes", "most"), [(1_000_000, 200), (16_000_000, 4)])
async def test_a_side_that_does_not_read_stops_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_bytes: int, most: int
) -> None:
    """No more is taken than the buffers on the way hold; of the largest messages the server holds one of each side.

    The upstream is not taken for lost, although its answer to a ping waits behind its messages.
    """
    monkeypatch.setattr("antiphon.backends.upstream.socket._PING_S", 0.05)
    sent: list[int] = []

    async def flood(ws: web.WebSocketResponse) -> None:
        while True:
            await ws.send_bytes(bytes(num_bytes))
            sent.append(1)

    async with front(tmp_path, answering(flood)) as up, up.open() as ws:
        ws.transport.pause_reading()
        num = -1
        while num != len(sent):
            num = len(sent)
            async with httpx.AsyncClient(base_url=up.server.root) as client:
                for _ in range(20):
                    assert (await client.get("/health")).status_code == 200
        assert num <= most
        ws.transport.resume_reading()
        for _ in range(num):
            assert len(await ws.recv()) == num_bytes


async def test_a_connection_ends_when_it_is_idle_or_old(tmp_path: Path) -> None:
    """With the code for an end that is nobody's fault, and a reason."""
    for settings, word in ((SocketSettings(idle_s=0.2), "No message"), (SocketSettings(limit_s=0.2), "limit")):
        async with front(tmp_path, sockets=settings) as up, up.open() as ws:
            code, reason = await closed_by_server(ws)
            assert code == 1001
            assert word in reason


async def test_a_server_that_ends_closes_in_order(tmp_path: Path) -> None:
    """At once where nothing runs; within the grace where a response does."""

    async def talk(ws: web.WebSocketResponse) -> None:
        while (await ws.receive()).type is not WSMsgType.CLOSE:
            pass

    async with front(tmp_path, answering(talk)) as up, up.open() as idle, up.open() as busy:
        await busy.send(json.dumps({"type": "response.create"}))
        await until(lambda: up.server.service.in_flight.count == 1)
        up.server.loop.call_soon_threadsafe(up.server.stop.set)
        assert (await closed_by_server(idle))[0] == 1001
        assert (await closed_by_server(busy))[0] in {1001, 1011}
        await until(lambda: len(up.outcomes) == 1)
