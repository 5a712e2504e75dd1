"""Relayed responses between an upstream that misbehaves and a client that leaves: nothing hangs, leaks or disturbs a neighbour."""

import asyncio
import gzip
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import httpx2 as httpx
import pytest
from aiohttp import web
from tests.backends.faulty_api import chunk
from tests.backends.recording_api import recording_api
from tests.server.test_forwarded_sockets import frame
from tests.serving import Running, outcomes_of, running
from tests.waiting import PATIENCE_S, until
from websockets.asyncio.client import ClientConnection, connect

from antiphon.accounts import Outcome
from antiphon.backends.routing import Router
from antiphon.backends.upstream import Timeouts, UpstreamBackend, UpstreamModel, UpstreamSettings

pytestmark = pytest.mark.anyio

Json = dict[str, Any]
Mode = Literal["socket", "http"]
USAGE = {"input_tokens": 9, "output_tokens": 4, "total_tokens": 13}
TEXT = 1


class Peer:
    """One request at the upstream: ``raw`` writes bytes below the protocol, ``event`` an event of the transport."""

    def __init__(self, mode: Mode, request: web.Request, response: Any, number: int) -> None:
        self.mode = mode
        self.request = request
        self.response = response
        self.id = f"resp_{number}"

    async def event(self, value: Json | str) -> None:
        text = value if isinstance(value, str) else json.dumps(value)
        if self.mode == "socket":
            await self.response.send_str(text)
        else:
            await self.response.write(f"data: {text}\n\n".encode())

    def raw(self, data: bytes) -> None:
        """On a WebSocket these are frames; in a body of HTTP they are one chunk."""
        assert self.request.transport is not None
        self.request.transport.write(data if self.mode == "socket" else b"%x\r\n%b\r\n" % (len(data), data))

    def cut(self) -> None:
        assert self.request.transport is not None
        self.request.transport.close()

    def value(self, status: str = "completed", response_id: str | None = None) -> Json:
        usage = None if status == "in_progress" else USAGE
        return {
            "id": response_id or self.id,
            "object": "response",
            "model": "m",
            "status": status,
            "output": [],
            "usage": usage,
        }

    async def begin(self) -> None:
        await self.event({"type": "response.created", "sequence_number": 0, "response": self.value("in_progress")})
        await self.event({"type": "response.output_text.delta", "sequence_number": 1, "delta": self.id})

    async def complete(self, **more: Any) -> None:
        last = {"type": "response.completed", "sequence_number": 2, "response": self.value()}
        await self.event({**last, **more})


Deed = Callable[[Peer], Awaitable[None]]


async def half_a_frame_and_closes(peer: Peer) -> None:
    await peer.begin()
    peer.raw(frame(TEXT, b'{"type": "resp', length=100) if peer.mode == "socket" else b'data: {"type": "resp')
    peer.cut()


async def half_a_frame(peer: Peer) -> None:
    await peer.begin()
    peer.raw(frame(TEXT, b'{"type": "resp', length=100) if peer.mode == "socket" else b'data: {"type": "resp')
    await asyncio.Event().wait()


async def closes_in_an_item(peer: Peer) -> None:
    await peer.begin()
    if peer.mode == "socket":
        await peer.response.close(code=1011, message=b"out of memory")
    else:
        await peer.response.write_eof()


async def resets(peer: Peer) -> None:
    await peer.begin()
    assert peer.request.transport is not None
    peer.request.transport.abort()


async def ends_twice(peer: Peer) -> None:
    await peer.begin()
    await peer.complete()
    await peer.complete(sequence_number=3)


async def goes_on_after_its_end(peer: Peer) -> None:
    await peer.begin()
    await peer.complete()
    for number in range(3, 60):
        await peer.event({"type": "response.output_text.delta", "sequence_number": number, "delta": "stale"})


async def adds_nonsense_to_its_end(peer: Peer) -> None:
    await peer.begin()
    await peer.complete()
    await peer.event("{oops")


async def stays_open_after_its_end(peer: Peer) -> None:
    await peer.begin()
    await peer.complete()
    await asyncio.Event().wait()


async def changes_its_id(peer: Peer) -> None:
    await peer.begin()
    await peer.complete(response=peer.value(response_id="resp_another"))


async def sends_9_mb_at_once(peer: Peer) -> None:
    await peer.begin()
    await peer.event({"type": "response.output_text.delta", "sequence_number": 2, "delta": "x" * 9_000_000})


async def counts_wrong(peer: Peer) -> None:
    await peer.begin()
    for number in (-5, "7", None, 1, 10**30, 1.5):
        await peer.event({"type": "response.output_text.delta", "sequence_number": number, "delta": "x"})
    await peer.complete(sequence_number=0)


async def compresses(peer: Peer) -> None:
    await peer.begin()
    peer.raw(frame(TEXT, b"abc", rsv1=True) if peer.mode == "socket" else b"data: " + gzip.compress(b"{}", 0) + b"\n\n")
    await asyncio.Event().wait()


async def sends_no_utf8(peer: Peer) -> None:
    await peer.begin()
    bad = b'{"type": "response.output_text.delta", "delta": "\xff\xfe"}'
    peer.raw(frame(TEXT, bad) if peer.mode == "socket" else b"data: " + bad + b"\n\n")
    await asyncio.Event().wait()


async def sends_no_json(peer: Peer) -> None:
    await peer.begin()
    await peer.event("{oops")
    await asyncio.Event().wait()


async def nests_too_deeply(peer: Peer) -> None:
    await peer.begin()
    await peer.event('{"type": "response.x", "a": ' + "[" * 100_000)
    await asyncio.Event().wait()


async def says_that_it_failed(peer: Peer) -> None:
    await peer.begin()
    failed = peer.value("failed")
    del failed["usage"]
    await peer.event({"type": "response.failed", "sequence_number": 2, "response": failed})
    await asyncio.Event().wait()


async def breaks_off_with_an_error(peer: Peer) -> None:
    await peer.begin()
    await peer.event({"type": "error", "sequence_number": 2, "code": "busy", "message": "too busy", "param": None})
    await asyncio.Event().wait()


async def says_nothing(peer: Peer) -> None:
    await asyncio.Event().wait()


async def says_null(peer: Peer) -> None:
    while True:
        await peer.event("null")
        await asyncio.sleep(0.02)


async def ends_before_it_begins(peer: Peer) -> None:
    await peer.complete(sequence_number=0)


DEEDS: list[tuple[Deed, str]] = [
    (half_a_frame, "upstream_timeout"),
    (half_a_frame_and_closes, "upstream_disconnected"),
    (closes_in_an_item, "upstream_disconnected"),
    (resets, "upstream_disconnected"),
    (ends_twice, "completed"),
    (goes_on_after_its_end, "completed"),
    (adds_nonsense_to_its_end, "completed"),
    (stays_open_after_its_end, "completed"),
    (changes_its_id, "completed"),
    (sends_9_mb_at_once, "upstream_protocol_error"),
    (counts_wrong, "completed"),
    (compresses, "upstream_protocol_error"),
    (sends_no_utf8, "upstream_protocol_error"),
    (sends_no_json, "upstream_protocol_error"),
    (nests_too_deeply, "upstream_protocol_error"),
    (says_that_it_failed, "failed"),
    (breaks_off_with_an_error, "busy"),
    (says_nothing, "upstream_timeout"),
    (says_null, "upstream_timeout"),
    (ends_before_it_begins, "completed"),
]


class HostileApi:
    """An upstream that does ``deed`` for the input "bad", and answers every other one with its own id, when ``go`` is set."""

    def __init__(self, mode: Mode, deed: Deed) -> None:
        self.mode: Mode = mode
        self.deed = deed
        self.go = asyncio.Event()
        self.go.set()
        self.num_asked = 0
        self.num_open = 0

    async def __call__(self, request: web.Request, body: bytes) -> web.StreamResponse:
        if request.path.endswith("/conversations"):
            return web.json_response({"id": "conv_upstream1", "object": "conversation", "created_at": 1})
        self.num_open += 1
        try:
            if request.headers.get("upgrade") == "websocket":
                return await self.talk(request) if self.mode == "socket" else web.Response(status=405)
            response = web.StreamResponse(headers={"content-type": "text/event-stream"})
            response.enable_chunked_encoding()
            asked = json.loads(body)
            if "messages" in asked:
                asked["input"] = "chat"
            if asked["input"] != "silent":
                await response.prepare(request)
            answering = asyncio.create_task(self.answer(request, response, asked))
            await until(lambda: answering.done() or request.transport is None or request.transport.is_closing())
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)
            return response
        finally:
            self.num_open -= 1

    async def talk(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(autoclose=False)
        await socket.prepare(request)
        reading = asyncio.ensure_future(socket.receive())
        answering: list[asyncio.Task[None]] = []
        try:
            while (message := await reading).type.name == "TEXT":
                asked = json.loads(message.data)
                answering.append(asyncio.create_task(self.answer(request, socket, asked)))
                reading = asyncio.ensure_future(socket.receive())
        finally:
            for task in answering:
                task.cancel()
            await asyncio.gather(*answering, return_exceptions=True)
        return socket

    async def answer(self, request: web.Request, response: Any, asked: Json) -> None:
        self.num_asked += 1
        peer = Peer(self.mode, request, response, self.num_asked)
        if asked["input"] == "silent":
            await asyncio.Event().wait()
        if asked["input"] == "chat":
            peer.raw(chunk("ok") + chunk(None, "stop") + b"data: [DONE]\n\n")
            await asyncio.Event().wait()
        if asked["input"] == "bad":
            await self.deed(peer)
            return
        await peer.begin()
        await self.go.wait()
        await peer.complete()


class Front(NamedTuple):
    upstream: HostileApi
    server: Running
    outcomes: list[Outcome]

    def open(self) -> connect:
        return connect(self.server.url.replace("http:", "ws:") + "/responses", compression=None, max_size=None)

    def is_idle(self) -> bool:
        """Whether nothing of a request is left: none in flight, no bytes held, no work or connection at the upstream."""
        service = self.server.service
        parts = {part.part: part.values for part in service.backend.statistics()}
        left: Any = (parts["router"], parts["upstream"])
        return (
            service.in_flight.count == 0
            and service.bodies.num_bytes_held == 0
            and left[0].outstanding == 0
            and left[1].running == 0
            and self.upstream.num_open == 0
        )

    def num_tasks(self) -> int:
        return len(asyncio.all_tasks(self.server.loop))


async def says_the_usual(peer: Peer) -> None:
    await peer.begin()
    await peer.complete()


@asynccontextmanager
async def front(home: Path, mode: Mode, deed: Deed = says_the_usual, patience_s: float = 0.5) -> AsyncGenerator[Front]:
    upstream_api = HostileApi(mode, deed)
    async with recording_api(upstream_api) as api:
        settings = UpstreamSettings(
            name="api",
            base_url=api.url,
            models=(UpstreamModel(id="m"), UpstreamModel(id="patient")),
            responses="relay",
            timeouts=Timeouts(first_byte_s=patience_s, between_bytes_s=patience_s),
        )
        with running(Router({"api": UpstreamBackend(settings)}), home) as server:
            outcomes = outcomes_of(server)
            try:
                yield Front(upstream_api, server, outcomes)
            finally:
                upstream_api.go.set()


async def create(ws: ClientConnection, text: str, lane: str) -> None:
    await ws.send(json.dumps({"type": "response.create", "model": "m", "input": text, "stream_id": lane}))


async def answered(ws: ClientConnection, *lanes: str) -> dict[str, list[Json]]:
    """The events of one response in each lane, up to its last."""
    events: dict[str, list[Json]] = {lane: [] for lane in lanes}
    is_over = dict.fromkeys(lanes, False)
    ends = {"response.completed", "response.incomplete", "response.failed", "error"}
    async with asyncio.timeout(PATIENCE_S):
        while not all(is_over.values()):
            event = json.loads(await ws.recv())
            assert not is_over[event["stream_id"]], f"after the end of a response came {str(event)[:200]}"
            events[event["stream_id"]].append(event)
            is_over[event["stream_id"]] = event["type"] in ends
    return events


def end_of(events: list[Json]) -> str:
    """How a response ended: its status, or the code of the error."""
    last = events[-1]
    if last["type"] != "error":
        status: str = last["response"]["status"]
        return status
    code: str = last["code"] if "code" in last else last["error"]["code"]
    return code


def is_whole(events: list[Json]) -> bool:
    """Whether these are the events of one response that went well, and of no other."""
    ids = {events[0]["response"]["id"], events[1]["delta"], events[-1]["response"]["id"]}
    return len(ids) == 1 and [event["sequence_number"] for event in events] == [0, 1, 2]


@pytest.mark.parametrize("mode", ["socket", "http"])
@pytest.mark.parametrize(("deed", "end"), DEEDS, ids=[deed.__name__ for deed, _ in DEEDS])
async def test_an_upstream_that_misbehaves_disturbs_nobody_else(
    tmp_path: Path, mode: Mode, deed: Deed, end: str
) -> None:
    """Its response ends once, the lane and the other lanes get their own answers and no others, and nothing is left."""
    async with front(tmp_path, mode, deed) as up:
        async with up.open() as ws:
            await create(ws, "good", "a")
            assert is_whole((await answered(ws, "a"))["a"])
            num_tasks = up.num_tasks()
            up.upstream.go.clear()
            await create(ws, "bad", "a")
            bad = (await answered(ws, "a"))["a"]
            assert end_of(bad) == end
            await create(ws, "good", "a")
            await create(ws, "good", "b")
            await until(lambda: up.upstream.num_asked >= 4)
            up.upstream.go.set()
            for events in (await answered(ws, "a", "b")).values():
                assert is_whole(events)
            await until(lambda: up.num_tasks() <= num_tasks + 8)
        await until(up.is_idle)
        await until(lambda: up.num_tasks() < num_tasks)


@pytest.mark.parametrize(("deed", "end"), DEEDS, ids=[deed.__name__ for deed, _ in DEEDS])
async def test_a_stream_over_http_ends_once(tmp_path: Path, deed: Deed, end: str) -> None:
    """With the response's last event or with one error, and not long after it."""
    async with front(tmp_path, "http", deed) as up, httpx.AsyncClient(base_url=up.server.root) as client:
        asked = {"model": "m", "input": "bad", "stream": True}
        response = await client.post("/v1/responses", json=asked, timeout=PATIENCE_S)
        if response.status_code != 200:
            # Nothing was said before.
            assert response.json()["error"]["code"] == end
            return
        events = [json.loads(each.partition("data: ")[2]) for each in response.text.split("\n\n") if "data: " in each]
        assert end_of(events) == end
        ends = {"response.completed", "response.failed", "error"}
        assert [event["type"] in ends for event in events].count(True) == 1
        await until(up.is_idle)
        assert [outcome.status == 200 for outcome in up.outcomes] == [not end.startswith("upstream")]


async def test_a_stream_of_chat_that_stays_open_is_over_with_its_end_mark(tmp_path: Path) -> None:
    """Its row says that it was complete, and nothing of it is left."""
    async with front(tmp_path, "http") as up, httpx.AsyncClient(base_url=up.server.root) as client:
        asked = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
        response = await client.post("/v1/chat/completions", json=asked, timeout=PATIENCE_S)
        assert response.text.endswith("data: [DONE]\n\n")
        await until(up.is_idle)
        assert [(outcome.status, outcome.error_code) for outcome in up.outcomes] == [(200, None)]


FIELDS: dict[str, Json] = {
    "stored": {"store": True},
    "not stored": {"store": False},
    "background": {"background": True},
    "conversation": {"conversation": "conv_upstream1"},
}


@pytest.mark.parametrize("stage", ["silent", "silent, in one piece", "in the answer", "after the end"])
@pytest.mark.parametrize("fields", FIELDS)
async def test_a_client_that_leaves_a_stream_leaves_nothing(tmp_path: Path, fields: str, stage: str) -> None:
    """Before the first event, within the answer, and with the last event unread; a neighbour goes on."""
    async with front(tmp_path, "http", stays_open_after_its_end, PATIENCE_S) as up:
        async with httpx.AsyncClient(base_url=up.server.root, timeout=PATIENCE_S) as client:
            owned = await client.post("/v1/conversations", json={}, headers={"x-antiphon-upstream": "api"})
            assert owned.json()["id"] == "conv_upstream1"
            text = {"in the answer": "good", "after the end": "bad"}.get(stage, "silent")
            asked = {"model": "m", "input": text, "stream": stage != "silent, in one piece", **FIELDS[fields]}
            num_before = up.upstream.num_asked
            up.upstream.go.clear()
            async with client.stream(
                "POST", "/v1/responses", json=asked | {"input": "good", "stream": True}
            ) as neighbour:
                if text == "silent":
                    task = asyncio.create_task(client.post("/v1/responses", json=asked))
                    await until(lambda: up.upstream.num_open == 2)
                    task.cancel()
                    await asyncio.wait({task})
                else:
                    async with client.stream("POST", "/v1/responses", json=asked) as leaving:
                        async for _ in leaving.aiter_bytes():
                            break
                await until(lambda: up.upstream.num_open == 1)
                up.upstream.go.set()
                assert "response.completed" in (await neighbour.aread()).decode()
            assert up.upstream.num_asked >= num_before + 1
        await until(up.is_idle)
        # Whatever the one that left had claimed is free: the same request is answered.
        async with httpx.AsyncClient(base_url=up.server.root, timeout=PATIENCE_S) as client:
            again = await client.post("/v1/responses", json=asked | {"input": "good", "stream": True})
            assert "response.completed" in again.text
        await until(up.is_idle)


@pytest.mark.parametrize("mode", ["socket", "http"])
@pytest.mark.parametrize("text", ["silent", "good", "bad"])
async def test_a_client_that_leaves_its_websocket_leaves_nothing(tmp_path: Path, mode: Mode, text: str) -> None:
    """With lanes that wait for a first event, run, or are over; another client goes on."""
    async with front(tmp_path, mode, stays_open_after_its_end, PATIENCE_S) as up, up.open() as neighbour:
        await create(neighbour, "good", "a")
        await answered(neighbour, "a")
        num_tasks = up.num_tasks()
        up.upstream.go.clear()
        await create(neighbour, "good", "a")
        async with up.open() as ws:
            for lane in ("a", "b"):
                await create(ws, text, lane)
                await create(ws, text, lane)
            await until(lambda: up.upstream.num_asked >= 4 or (mode == "http" and up.upstream.num_open >= 3))
            ws.transport.abort()
        await until(lambda: up.upstream.num_open == 1)
        await until(lambda: up.num_tasks() <= num_tasks + 4)
        up.upstream.go.set()
        assert is_whole((await answered(neighbour, "a"))["a"])
        await neighbour.close()
        await until(up.is_idle)
