"""``response.steer`` over a WebSocket, for models of upstreams that are reached over a WebSocket of theirs."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import openai
import pytest
from aiohttp import web
from tests.backends.faulty_api import chunk
from tests.backends.recording_api import recording_api
from tests.serving import Running, outcomes_of, running
from tests.waiting import PATIENCE_S, until
from websockets.asyncio.client import ClientConnection, connect

from antiphon.accounts import AccountSettings, Outcome
from antiphon.backends.routing import Router
from antiphon.backends.scripted.backend import ScriptedBackend
from antiphon.backends.scripted.script import Script
from antiphon.backends.upstream import UpstreamBackend, UpstreamModel, UpstreamSettings
from antiphon.server.responses.steering import MAX_STEERS

pytestmark = pytest.mark.anyio

Json = dict[str, Any]
USAGE = {"input_tokens": 9, "output_tokens": 4, "total_tokens": 13}
CALL = {
    "type": "function_call",
    "id": "fc_1",
    "call_id": "call_1",
    "name": "f",
    "arguments": "{}",
    "status": "completed",
}


def items(given: Any) -> list[Json]:
    return [{"type": "message", "role": "user", "content": given}] if isinstance(given, str) else given


class Connection:
    """One WebSocket of the double: its responses one after another, and the input that waits for each."""

    def __init__(self, api: "SteeringApi", request: web.Request, socket: web.WebSocketResponse) -> None:
        self.api = api
        self.request = request
        self.socket = socket
        self.active = ""
        self.plan = ""
        self.accepted: dict[str, list[tuple[str, list[Json]]]] = {}
        self.queued: dict[str, list[Json]] = {}
        self.number = 0
        self.news = asyncio.Event()

    async def send(self, kind: str, **fields: Any) -> None:
        self.number += 1
        await self.socket.send_str(json.dumps({"type": kind, "sequence_number": self.number, **fields}))

    def cut(self) -> None:
        assert self.request.transport is not None
        self.request.transport.close()

    async def steer(self, event: Json) -> None:
        """Accept the input, or refuse it, as the input of the response asks for."""
        self.api.steers.append(event)
        parent = event["previous_response_id"]
        if self.plan == "refuses" or parent != self.active:
            code = "steering_not_supported" if parent == self.active else "response_already_completed"
            error = {"type": "invalid_request_error", "code": code, "message": "no"}
            steer = {"input": event["input"], "previous_response_id": parent}
            await self.send("response.steer.failed", error=error, steer=steer)
        elif self.plan == "breaks":
            self.cut()
        elif self.plan != "says nothing":
            steer_id = f"steer_{len(self.api.steers)}"
            await self.send("response.steer.accepted", steer={"id": steer_id, "previous_response_id": parent})
            self.accepted.setdefault(parent, []).append((steer_id, items(event["input"])))
            if self.plan == "breaks later":
                self.cut()
        self.news.set()

    async def answer(self, body: Json) -> None:
        """Make one response, and the one that follows it by itself."""
        previous, given = body.get("previous_response_id"), items(body["input"])
        given = self.queued.pop(previous or "", []) + given
        self.api.made.append(given)
        self.plan = str(given[-1].get("content"))
        self.active = made = f"resp_{len(self.api.made)}"
        self.number = 0
        response: Json = {"id": made, "object": "response", "model": body["model"], "previous_response_id": previous}
        response |= {"store": body.get("store", True)}
        await self.send("response.created", response=response | {"status": "in_progress", "output": [], "usage": None})
        if self.plan != "at once":
            is_cut_by_input = self.plan not in {"calls", "finishes first"}
            while not (self.api.go.is_set() or (is_cut_by_input and self.accepted.get(made))):
                await self.news.wait()
                self.news.clear()
        said: Json = {"type": "message", "id": "msg", "role": "assistant", "content": [], "status": "completed"}
        output = [CALL] if self.plan == "calls" else [said]
        steered = self.accepted.pop(made, [])
        is_cut = bool(steered) and self.plan == "steered"
        last: Json = response | {"output": output, "usage": USAGE, "status": "incomplete" if is_cut else "completed"}
        if is_cut:
            last |= {"incomplete_details": {"reason": "steered"}}
        await self.send("response.incomplete" if is_cut else "response.completed", response=last)
        self.active = ""
        taken = [item for _, each in steered for item in each]
        if self.plan == "calls":
            required = [{"type": "function_call_output", "call_id": "call_1", "name": "f"}]
            for steer_id, _ in steered:
                steer = {"id": steer_id, "previous_response_id": made}
                reason = "waiting_for_required_input"
                await self.send("response.steer.pending", steer=steer, reason=reason, required_input=required)
            self.queued[made] = taken
        elif taken:
            await self.answer({**body, "previous_response_id": made, "input": taken})


class SteeringApi:
    """An upstream whose responses can be steered. A response that is not "at once" waits for input, or for ``go``.

    ``made`` has the input of each response. ``over``: whether its connections are WebSockets.
    """

    def __init__(self, over: str = "socket") -> None:
        self.over = over
        self.go = asyncio.Event()
        self.steers: list[Json] = []
        self.asked: list[Json] = []
        self.made: list[list[Json]] = []
        self.connections: list[Connection] = []
        self.num_closed = 0

    async def __call__(self, request: web.Request, body: bytes) -> web.StreamResponse:
        if request.headers.get("upgrade") == "websocket":
            return await self.talk(request) if self.over == "socket" else web.Response(status=405)
        if request.path.endswith("/chat/completions"):
            return await self.stream(request, chunk("ok"), chunk(None, "stop") + b"data: [DONE]\n\n")
        if body == b"{}":
            return web.json_response({"error": {"message": "no model"}}, status=400)
        asked = json.loads(body)
        self.asked.append(asked)
        response: Json = {
            "id": f"resp_http{len(self.asked)}",
            "object": "response",
            "model": "m",
            "output": [],
            "usage": USAGE,
        }
        created = json.dumps({"type": "response.created", "sequence_number": 0, "response": response})
        completed = json.dumps({"type": "response.completed", "sequence_number": 1, "response": response})
        return await self.stream(request, f"data: {created}\n\n".encode(), f"data: {completed}\n\n".encode())

    async def stream(self, request: web.Request, *frames: bytes) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for place, frame in enumerate(frames):
            if place:
                await self.go.wait()
            await response.write(frame)
        return response

    async def talk(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        connection = Connection(self, request, socket)
        self.connections.append(connection)
        answering: list[asyncio.Task[None]] = []
        try:
            async for message in socket:
                event = json.loads(message.data)
                if event.pop("type") == "response.create":
                    assert "stream_id" not in event
                    self.asked.append(event)
                    answering.append(asyncio.create_task(connection.answer(event)))
                else:
                    await connection.steer(event)
        finally:
            self.num_closed += 1
            for task in answering:
                task.cancel()
            await asyncio.gather(*answering, return_exceptions=True)
        return socket

    def release(self) -> None:
        """Let each response end."""
        self.go.set()
        for connection in self.connections:
            connection.news.set()


class Front(NamedTuple):
    upstream: SteeringApi
    server: Running
    outcomes: list[Outcome]

    def open(self) -> connect:
        return connect(self.server.url.replace("http:", "ws:") + "/responses", compression=None)


@asynccontextmanager
async def front(home: Path, over: str = "socket", accounts: AccountSettings | None = None) -> AsyncGenerator[Front]:
    upstream_api = SteeringApi(over)
    async with recording_api(upstream_api) as api:
        settings = UpstreamSettings(
            name="api",
            base_url=api.url,
            models=(UpstreamModel(id="m"),),
            responses="translate" if over == "translate" else "relay",
        )
        backends = {"local": ScriptedBackend(Script(models=("here",))), "api": UpstreamBackend(settings)}
        with running(Router(backends), home, accounts=accounts) as server:
            outcomes = outcomes_of(server)
            try:
                yield Front(upstream_api, server, outcomes)
            finally:
                upstream_api.release()


async def create(ws: ClientConnection, text: Any, **fields: Any) -> None:
    await ws.send(json.dumps({"type": "response.create", "model": "m", "input": text, **fields}))


async def steer(ws: ClientConnection, target: str, given: Any = "rather so", **more: Any) -> None:
    await ws.send(json.dumps({"type": "response.steer", "previous_response_id": target, "input": given, **more}))


async def events_until(ws: ClientConnection, *kinds: str) -> list[Json]:
    """The events up to the first of a kind."""
    events: list[Json] = []
    async with asyncio.timeout(PATIENCE_S):
        while not events or events[-1]["type"] not in kinds:
            events.append(json.loads(await ws.recv()))
    return events


async def begun(ws: ClientConnection, text: Any, **fields: Any) -> str:
    """Ask for a response, and return its id when it runs."""
    await create(ws, text, **fields)
    made: str = (await events_until(ws, "response.created"))[-1]["response"]["id"]
    return made


def kinds(events: list[Json]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


@pytest.mark.parametrize("lane", [None, "a"])
@pytest.mark.parametrize("plan", ["steered", "finishes first"])
async def test_a_steered_response_is_followed_by_another(tmp_path: Path, plan: str, lane: str | None) -> None:
    """With the upstream's own events, all of them in the lane of the response; each has its row in the ledger."""
    async with front(tmp_path) as up, up.open() as ws:
        fields = {} if lane is None else {"stream_id": lane}
        first = await begun(ws, plan, **fields)
        given = [{"role": "user", "content": [{"type": "input_text", "text": "at once"}]}]
        await steer(ws, first, given)
        events = await events_until(ws, "response.steer.accepted")
        if plan == "finishes first":
            up.upstream.release()
        events += await events_until(ws, "response.incomplete", "response.completed")
        events += await events_until(ws, "response.created")
        second = events[-1]["response"]
        up.upstream.release()
        events += await events_until(ws, "response.completed")
        ends = "incomplete" if plan == "steered" else "completed"
        assert kinds(events) == ["steer.accepted", ends, "created", "completed"]
        assert {event.get("stream_id") for event in events} == {lane}
        assert second["previous_response_id"] == first
        assert up.upstream.steers == [{"previous_response_id": first, "input": given}]
        await until(lambda: len(up.outcomes) == 2)
        assert [(each.status, each.usage.total_tokens, each.model) for each in up.outcomes] == [(200, 13, "m")] * 2
        assert len({each.request_id for each in up.outcomes}) == 2
        # The second one is a response like any other: the same connection continues it.
        await create(ws, "at once", previous_response_id=second["id"])
        await events_until(ws, "response.completed")
        assert up.upstream.asked[-1]["previous_response_id"] == second["id"]
        assert len(up.upstream.connections) == 1


async def test_the_official_client_steers(tmp_path: Path) -> None:
    """``connection.response.steer``: each event has the client's own type and the lane."""
    async with (
        front(tmp_path) as up,
        openai.AsyncOpenAI(base_url=up.server.url, api_key="any", max_retries=0) as client,
        client.responses.connect() as connection,
    ):
        await connection.response.create(model="m", input="steered", stream_id="a")
        kinds: list[str] = []
        async for event in connection:
            kinds.append(type(event).__name__)
            assert event.stream_id == "a"
            if event.type == "response.created" and event.response.previous_response_id is None:
                await connection.response.steer(input="at once", previous_response_id=event.response.id)
            if event.type == "response.completed":
                break
        assert kinds == [
            "ResponseWsCreated",
            "ResponseSteerAcceptedEvent",
            "ResponseWsIncomplete",
            "ResponseWsCreated",
            "ResponseWsCompleted",
        ]


async def test_a_follower_can_be_steered_and_is_remembered(tmp_path: Path) -> None:
    """What was said by steering is said again where the upstream has lost its connection."""
    async with front(tmp_path) as up, up.open() as ws:
        first = await begun(ws, "steered", store=False)
        await steer(ws, first, "steered")
        second = (await events_until(ws, "response.created"))[-1]["response"]["id"]
        await steer(ws, second, "at once")
        assert kinds(await events_until(ws, "response.completed")) == [
            "steer.accepted",
            "incomplete",
            "created",
            "completed",
        ]
        await up.upstream.connections[0].socket.close()
        await until(lambda: up.upstream.num_closed == 1)
        await create(ws, "at once", store=False, previous_response_id="resp_3")
        await events_until(ws, "response.completed")
        said = [item["content"] for item in up.upstream.made[-1] if item["role"] == "user"]
        assert said == ["steered", "steered", "at once", "at once"]


@pytest.mark.parametrize("store", [True, False])
@pytest.mark.parametrize("is_lost", [False, True])
async def test_input_that_waits_goes_with_the_result_of_the_call(tmp_path: Path, is_lost: bool, store: bool) -> None:
    """In order, once, before the request's own input; also if the connection that had it queued is lost meanwhile."""
    async with front(tmp_path) as up, up.open() as ws:
        first = await begun(ws, "calls", store=store, stream_id="a")
        for text in ("first", "second"):
            await steer(ws, first, text)
            await events_until(ws, "response.steer.accepted")
        up.upstream.release()
        events = await events_until(ws, "response.completed")
        events += await events_until(ws, "response.steer.pending")
        events += await events_until(ws, "response.steer.pending")
        assert events[-1]["required_input"][0]["call_id"] == "call_1"
        # Another lane does not use the connection that has input queued.
        await create(ws, "at once", stream_id="b")
        await events_until(ws, "response.completed")
        assert len(up.upstream.connections) == 2
        if is_lost:
            await up.upstream.connections[0].socket.close()
            await until(lambda: up.upstream.num_closed == 1)
        output = {"type": "function_call_output", "call_id": "call_1", "output": "at once"}
        await create(ws, [output], previous_response_id=first, store=store, stream_id="a")
        await events_until(ws, "response.completed")
        made = up.upstream.made[-1]
        assert [item.get("content") for item in made[-3:]] == ["first", "second", None]
        assert made[-1]["type"] == "function_call_output"
        await create(ws, "again", previous_response_id=first, store=store, stream_id="a")
        await events_until(ws, "response.completed")
        assert "second" not in str(up.upstream.made[-1])


async def test_input_that_waits_goes_to_a_model_of_this_machine_too(tmp_path: Path) -> None:
    """The models of one connection continue each other's responses, with what steered them."""
    async with front(tmp_path) as up, up.open() as ws:
        first = await begun(ws, "calls", store=False)
        await steer(ws, first, "rather in French")
        await events_until(ws, "response.steer.accepted")
        up.upstream.release()
        await events_until(ws, "response.steer.pending")
        output = {"type": "function_call_output", "call_id": "call_1", "output": "42"}
        await create(ws, [output], model="here", previous_response_id=first, store=False)
        last = (await events_until(ws, "response.completed", "error"))[-1]
        assert last["type"] == "response.completed", last
        assert "rather in French" in str(last["response"]["output"])


async def test_an_upstream_that_does_not_steer_says_so_itself(tmp_path: Path) -> None:
    """Its refusal passes as it is, and the response goes on."""
    async with front(tmp_path) as up, up.open() as ws:
        first = await begun(ws, "refuses", stream_id="a")
        await steer(ws, first)
        failed = (await events_until(ws, "response.steer.failed"))[-1]
        assert (failed["error"], failed["stream_id"]) == (
            {"type": "invalid_request_error", "code": "steering_not_supported", "message": "no"},
            "a",
        )
        up.upstream.release()
        assert kinds(await events_until(ws, "response.completed")) == ["completed"]
        await create(ws, "at once", stream_id="a")
        await events_until(ws, "response.completed")
        assert len(up.upstream.connections) == 1


@pytest.mark.parametrize("plan", ["breaks", "breaks later"])
async def test_input_comes_back_when_the_upstream_is_lost(tmp_path: Path, plan: str) -> None:
    """With its id if it was accepted, before the error that ends the response; the neighbour and the lane go on."""
    async with front(tmp_path) as up, up.open() as ws:
        neighbour = await begun(ws, "waits", stream_id="b")
        first = await begun(ws, plan, stream_id="a")
        await steer(ws, first, "keep me")
        events = await events_until(ws, "error")
        failed = events[-2]
        assert kinds(events)[-2:] == ["steer.failed", "error"]
        assert events[-1]["code"] == "upstream_disconnected"
        assert (failed["error"]["code"], failed["stream_id"]) == ("successor_creation_failed", "a")
        assert (failed["steer"]["input"], failed["steer"]["previous_response_id"]) == ("keep me", first)
        assert failed["steer"].get("id") == ("steer_1" if plan == "breaks later" else None)
        assert events[-1]["sequence_number"] == failed["sequence_number"] + 1
        up.upstream.release()
        assert (await events_until(ws, "response.completed"))[-1]["response"]["id"] == neighbour
        await create(ws, "at once", stream_id="a")
        await events_until(ws, "response.completed")


async def test_the_limits_hold_for_what_follows(tmp_path: Path) -> None:
    """The upstream's work on it ends, the input comes back, and the error is OpenAI's."""
    async with front(tmp_path, accounts=AccountSettings(rpm=1)) as up, up.open() as ws:
        first = await begun(ws, "steered")
        await steer(ws, first, "too much")
        events = await events_until(ws, "error")
        assert kinds(events) == ["steer.accepted", "incomplete", "steer.failed", "error"]
        assert events[-2]["steer"] == {"id": "steer_1", "input": "too much", "previous_response_id": first}
        assert (events[-1]["status"], events[-1]["error"]["code"]) == (429, "rate_limit_exceeded")
        await until(lambda: up.upstream.num_closed == 1)
        await until(lambda: up.server.service.in_flight.count == 0)


@pytest.mark.parametrize("over", ["http", "translate", "local"])
async def test_a_response_that_cannot_be_steered_says_why(tmp_path: Path, over: str) -> None:
    """In its lane, with the input; the response goes on."""
    async with front(tmp_path, over) as up, up.open() as ws:
        first = await begun(ws, "hello" * 200, model="here" if over == "local" else "m", stream_id="a")
        if over == "local":
            # The script answers at once, so the response may be over.
            await events_until(ws, "response.completed")
        await steer(ws, first, "rather so")
        failed = (await events_until(ws, "response.steer.failed"))[-1]
        assert failed["steer"] == {"input": "rather so", "previous_response_id": first}
        if over != "local":
            assert (failed["error"]["code"], failed["stream_id"]) == ("steering_not_supported", "a")
            assert ("HTTP" in failed["error"]["message"]) == (over == "http")
            up.upstream.release()
            await events_until(ws, "response.completed")
        else:
            assert failed["error"]["code"] == "response_already_completed"


@pytest.mark.parametrize(
    ("event", "code"),
    [
        ({"previous_response_id": "resp_unknown", "input": "x"}, "response_not_found"),
        ({"previous_response_id": "resp_unknown"}, "invalid_input"),
        ({"input": "x"}, "invalid_input"),
        ({"previous_response_id": 7, "input": "x"}, "invalid_input"),
        ({"previous_response_id": "RUNNING", "input": ""}, "invalid_input"),
        ({"previous_response_id": "RUNNING", "input": []}, "invalid_input"),
        ({"previous_response_id": "RUNNING", "input": {"role": "user"}}, "invalid_input"),
        ({"previous_response_id": "RUNNING", "input": "x", "stream_id": "a"}, "invalid_input"),
        ({"previous_response_id": "OVER", "input": "x"}, "response_already_completed"),
    ],
)
async def test_input_that_is_not_sent_on_is_answered_here(tmp_path: Path, event: Json, code: str) -> None:
    """In the words of the protocol; the upstream never sees it."""
    async with front(tmp_path) as up, up.open() as ws:
        over = await begun(ws, "at once")
        await events_until(ws, "response.completed")
        ids = {"RUNNING": await begun(ws, "waits"), "OVER": over}
        target = event.get("previous_response_id")
        more = {} if target is None else {"previous_response_id": ids.get(target, target)}
        await ws.send(json.dumps({"type": "response.steer", **event, **more}))
        failed = (await events_until(ws, "response.steer.failed"))[-1]
        assert failed["error"]["code"] == code
        assert failed["error"]["message"]
        assert up.upstream.steers == []


async def test_input_that_waits_is_bounded(tmp_path: Path) -> None:
    """Past the bound it is refused, and its bytes are not held any more; all are freed with the connection."""
    async with front(tmp_path) as up:
        async with up.open() as ws:
            first = await begun(ws, "says nothing")
            for _ in range(MAX_STEERS + 1):
                await steer(ws, first, "x" * 1000)
            failed = (await events_until(ws, "response.steer.failed"))[-1]
            assert failed["error"]["code"] == "too_many_pending_steers"
            bodies = up.server.service.bodies
            await until(lambda: len(up.upstream.steers) == MAX_STEERS)
            assert MAX_STEERS * 1000 < bodies.num_bytes_held < (MAX_STEERS + 1) * 1200
        await until(lambda: bodies.num_bytes_held == 0)
        await until(lambda: up.upstream.num_closed == 1)
        await until(lambda: up.server.service.in_flight.count == 0)


@pytest.mark.parametrize("stage", ["accepted", "incomplete", "created"])
async def test_a_client_that_leaves_while_it_steers_ends_everything(tmp_path: Path, stage: str) -> None:
    """Whatever has come by then: no connection, no memory and no request in flight is left."""
    async with front(tmp_path) as up:
        async with up.open() as ws:
            plan = "says nothing" if stage == "accepted" else "steered"
            first = await begun(ws, plan)
            await steer(ws, first, "steered")
            if stage != "accepted":
                await events_until(ws, f"response.{stage}")
            await until(lambda: len(up.upstream.steers) == 1)
            ws.transport.abort()
        await until(lambda: up.upstream.num_closed == 1)
        service = up.server.service
        await until(lambda: service.in_flight.count == 0 and service.bodies.num_bytes_held == 0)
        parts: list[Any] = [part.values for part in service.backend.statistics() if part.part == "router"]
        assert [values.outstanding for values in parts] == [0]
