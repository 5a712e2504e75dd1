"""Responses over a WebSocket for models of upstreams: relayed over the upstream's own, relayed over HTTP, or translated."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import openai
import pytest
from aiohttp import WSMsgType, web
from tests.backends.faulty_api import chunk
from tests.backends.recording_api import RecordingApi, recording_api
from tests.serving import Running, outcomes_of, running
from tests.waiting import PATIENCE_S, until
from websockets.asyncio.client import ClientConnection, connect

from antiphon.accounts import AccountSettings, Outcome
from antiphon.backends.routing import Router
from antiphon.backends.scripted.backend import ScriptedBackend
from antiphon.backends.scripted.script import Script
from antiphon.backends.upstream import UpstreamBackend, UpstreamModel, UpstreamSettings, socket_answer

pytestmark = pytest.mark.anyio

Mode = Literal["socket", "http", "translate"]
MODES: tuple[Mode, ...] = ("socket", "http", "translate")
USAGE = {"input_tokens": 9, "output_tokens": 4, "total_tokens": 13, "input_tokens_details": {"cached_tokens": 3}}


class UpstreamApi:
    """An upstream with the endpoint. ``asked`` are the bodies, ``over`` how each came, ``sockets`` the open connections."""

    def __init__(self, mode: Mode) -> None:
        self.mode = mode
        self.asked: list[dict[str, Any]] = []
        self.over: list[str] = []
        self.sockets: list[web.WebSocketResponse] = []
        self.num_closed = 0
        self.num_sockets_asked = 0
        self.refuses_sockets_with = 405
        self.pause = asyncio.Event()
        self.pause.set()

    def events(self, body: dict[str, Any], known: set[str]) -> list[str]:
        """The events as texts with blanks and numbers that no second writer would write."""
        previous = body.get("previous_response_id")
        if previous is not None and previous not in known and not str(previous).startswith("resp_stored"):
            error = {"type": "invalid_request_error", "code": "previous_response_not_found", "message": "not there"}
            return [json.dumps({"type": "error", "status": 400, "error": error | {"param": "previous_response_id"}})]
        made = f"resp_{'stored' if body.get('store') is not False else 'kept'}{len(self.asked)}"
        known.add(made)
        said: dict[str, Any] = {
            "type": "message",
            "id": f"msg_{len(self.asked)}",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": f"answer {len(self.asked)}", "annotations": []}],
        }
        response = {"id": made, "object": "response", "created_at": 1, "model": body["model"], "x": 1.50}
        response |= {"output": [], "previous_response_id": previous, "usage": None, "store": body.get("store", True)}
        texts: list[dict[str, Any]] = [
            {"type": "response.created", "sequence_number": 0, "response": response | {"status": "in_progress"}},
            {"type": "response.event_of_tomorrow", "sequence_number": 1, "x": 1e2},
            {
                "type": "response.output_text.delta",
                "sequence_number": 2,
                "item_id": said["id"],
                "delta": "é",
                "logprobs": [],
            },
            {
                "type": "response.completed",
                "sequence_number": 3,
                "response": response | {"status": "completed", "usage": USAGE, "output": [said]},
            },
        ]
        return [json.dumps(text, ensure_ascii=number == 2) for number, text in enumerate(texts)]

    async def __call__(self, request: web.Request, body: bytes) -> web.StreamResponse:
        if request.path.endswith("/models"):
            return web.json_response({"data": []})
        if request.headers.get("upgrade") == "websocket":
            self.num_sockets_asked += 1
            if self.mode != "socket":
                return web.Response(status=self.refuses_sockets_with)
            return await self.talk(request)
        if request.path.endswith("/chat/completions"):
            self.asked.append(json.loads(body))
            self.over.append("chat")
            stream = chunk("ok") + chunk(None, "stop") + b"data: [DONE]\n\n"
            return web.Response(body=stream, content_type="text/event-stream")
        if body == b"{}":
            missing = {"message": "no model", "code": "missing_required_parameter"}
            return web.json_response({"error": missing}, status=400)
        return await self.answer(request, json.loads(body))

    async def answer(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        self.asked.append(body)
        self.over.append("http")
        events = self.events(body, set())
        if '"error"' in events[0]:
            return web.json_response({"error": json.loads(events[0])["error"]}, status=400)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for text in events:
            await response.write(f"event: {json.loads(text)['type']}\ndata: {text}\n\n".encode())
            if '"delta"' in text:
                await self.pause.wait()
                if "break" in str(body["input"]):
                    assert request.transport is not None
                    request.transport.close()
        return response

    async def talk(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.sockets.append(socket)
        known: set[str] = set()
        try:
            async for message in socket:
                assert message.type is WSMsgType.TEXT
                body = json.loads(message.data)
                assert body.pop("type") == "response.create"
                self.asked.append(body)
                self.over.append("socket")
                for text in self.events(body, known):
                    await socket.send_str(text)
                    if '"delta"' in text:
                        await self.pause.wait()
                        if "break" in str(body["input"]):
                            assert request.transport is not None
                            request.transport.close()
        finally:
            self.num_closed += 1
        return socket


class Front(NamedTuple):
    api: RecordingApi
    upstream: UpstreamApi
    server: Running
    outcomes: list[Outcome]

    def open(self) -> connect:
        return connect(self.server.url.replace("http:", "ws:") + "/responses", compression=None)


@asynccontextmanager
async def front(home: Path, mode: Mode, accounts: AccountSettings | None = None) -> AsyncGenerator[Front]:
    upstream_api = UpstreamApi(mode)
    async with recording_api(upstream_api) as api:
        settings = UpstreamSettings(
            name="api",
            base_url=api.url,
            api_key_env="UPSTREAM_KEY",
            models=(UpstreamModel(id="m"), UpstreamModel(id="m2")),
            responses="translate" if mode == "translate" else "auto",
        )
        backends = {
            "local": ScriptedBackend(Script(models=("here",))),
            "api": UpstreamBackend(settings, environ={"UPSTREAM_KEY": "sk-upstream"}),
        }
        with running(Router(backends), home, accounts=accounts) as server:
            outcomes = outcomes_of(server)
            yield Front(api, upstream_api, server, outcomes)


async def create(ws: ClientConnection, text: Any, **fields: Any) -> None:
    await ws.send(json.dumps({"type": "response.create", "model": "m", "input": text, **fields}))


async def until_end(ws: ClientConnection, stream_id: str | None = None) -> list[str]:
    """The texts of one response's events, up to its last."""
    texts: list[str] = []
    async with asyncio.timeout(PATIENCE_S):
        while True:
            text = await ws.recv()
            assert isinstance(text, str)
            event = json.loads(text)
            if event.get("stream_id") == stream_id:
                texts.append(text)
                if event["type"] in {"response.completed", "error"}:
                    return texts


async def ask(ws: ClientConnection, text: Any, **fields: Any) -> dict[str, Any]:
    await create(ws, text, **fields)
    last = json.loads((await until_end(ws, fields.get("stream_id")))[-1])
    assert last["type"] == "response.completed", last
    response: dict[str, Any] = last["response"]
    return response


async def refused(ws: ClientConnection, text: Any, **fields: Any) -> dict[str, Any]:
    await create(ws, text, **fields)
    last: dict[str, Any] = json.loads((await until_end(ws))[-1])
    assert last["type"] == "error", last
    return last


@pytest.mark.parametrize("mode", MODES[:2])
async def test_events_are_the_upstreams_very_bytes(tmp_path: Path, mode: Mode) -> None:
    """And the request has the client's fields as they were written; with a lane, it is added and nothing else changes."""
    async with front(tmp_path, mode) as up, up.open() as ws:
        await ws.send('{"type":"response.create","model":"m","input":"hi","temperature":1.50,"tomorrow":{"a" : [1e2]}}')
        texts = await until_end(ws)
        assert [json.loads(text)["type"] for text in texts] == [
            "response.created",
            "response.event_of_tomorrow",
            "response.output_text.delta",
            "response.completed",
        ]
        assert '"x": 1.5' in texts[0]
        assert texts[1] == '{"type": "response.event_of_tomorrow", "sequence_number": 1, "x": 100.0}'
        assert "\\u00e9" in texts[2]
        await create(ws, "hi", stream_id="a")
        in_lane = await until_end(ws, "a")
        assert in_lane[1] == texts[1][:-1] + ',"stream_id":"a"}'
        if mode == "socket":
            assert "stream_id" not in up.upstream.asked[-1]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("store", [True, False])
async def test_a_response_is_continued_in_its_connection(tmp_path: Path, mode: Mode, store: bool) -> None:
    """Whether the upstream stores it or not, and whether the upstream has a WebSocket or not; the usage is in the ledger."""
    async with front(tmp_path, mode) as up, up.open() as ws:
        first = await ask(ws, "one", store=store)
        second = await ask(ws, "two", store=store, previous_response_id=first["id"])
        third = await ask(ws, "three", store=store, previous_response_id=second["id"])
        branch = await ask(ws, "other", store=store, previous_response_id=first["id"])
        assert len({first["id"], second["id"], third["id"], branch["id"]}) == 4
        asked = up.upstream.asked
        if mode == "translate":
            contents = [message["content"] for message in asked[2]["messages"]]
            assert contents == ["one", "ok", "two", "ok", "three"]
            assert [message["content"] for message in asked[3]["messages"]] == ["one", "ok", "other"]
            return
        assert up.upstream.over == [mode] * 4
        if mode == "socket" or store:
            assert [body.get("previous_response_id") for body in asked] == [
                None,
                first["id"],
                second["id"],
                first["id"],
            ]
            assert asked[2]["input"] == "three"
        else:
            said = [[item.get("role"), str(item["content"])] for item in asked[2]["input"]]
            assert [role for role, _ in said] == ["user", "assistant", "user", "assistant", "user"]
            assert "answer 2" in said[3][1]
            assert len(asked[3]["input"]) == 3
        await until(lambda: len(up.outcomes) == 4)
        for outcome in up.outcomes:
            usage = outcome.usage
            assert (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens) == (9, 4, 3)
            assert (outcome.model, outcome.status, outcome.is_estimate) == ("m", 200, False)
        assert {each.headers["authorization"] for each in up.api.requests} == {"Bearer sk-upstream"}


@pytest.mark.parametrize("mode", MODES)
async def test_several_models_share_a_connection(tmp_path: Path, mode: Mode) -> None:
    """Two of the upstream and one of this machine, each continuing what another said."""
    async with front(tmp_path, mode) as up, up.open() as ws:
        first = await ask(ws, "one", store=False)
        second = await ask(ws, "two", store=False, model="here", previous_response_id=first["id"])
        assert "two" in str(second["output"])
        third = await ask(ws, "three", store=False, model="m2", previous_response_id=first["id"])
        assert third["model"] == ("m2" if mode != "translate" else third["model"])
        fourth = await ask(ws, "four", store=False, model="m", previous_response_id=second["id"])
        assert fourth["previous_response_id"] == second["id"]
        # What this server keeps is continued by chat completions.
        assert up.upstream.over[-1] == "chat"
        assert "two" in json.dumps(up.upstream.asked[-1]["messages"])


@pytest.mark.parametrize("mode", MODES[:2])
async def test_a_warm_up_can_be_followed(tmp_path: Path, mode: Mode) -> None:
    """The upstream's own where it has a WebSocket; else it costs nothing, and its input goes with the next request."""
    async with front(tmp_path, mode) as up, up.open() as ws:
        warm = await ask(ws, "prepare", generate=False, store=False, instructions="be brief")
        second = await ask(ws, "go", previous_response_id=warm["id"], store=False)
        assert second["output"]
        if mode == "socket":
            assert up.upstream.asked[0]["generate"] is False
            assert up.upstream.asked[1]["previous_response_id"] == warm["id"]
        else:
            assert (warm["output"], warm["usage"]["total_tokens"]) == ([], 0)
            assert warm["instructions"] == "be brief"
            assert [item["content"] for item in up.upstream.asked[0]["input"]] == ["prepare", "go"]
            assert "generate" not in up.upstream.asked[0]
        warm = await ask(ws, "x", prompt_cache_options={"prewarm": True, "ttl": "12h"}, store=False)
        assert mode == "socket" or warm["output"] == []
        await ask(ws, "x", prompt_cache_options={"prewarm": False, "ttl": "12h"}, store=False)
        for body in up.upstream.asked[2 if mode == "socket" else 1 :]:
            assert body["prompt_cache_options"] == {"ttl": "12h"}


async def test_what_a_lost_connection_held_is_sent_again(tmp_path: Path) -> None:
    """The upstream closed its WebSocket between two requests; the client notices nothing."""
    async with front(tmp_path, "socket") as up, up.open() as ws:
        first = await ask(ws, "one", store=False)
        await up.upstream.sockets[0].close()
        await until(lambda: up.upstream.num_closed == 1)
        second = await ask(ws, "two", store=False, previous_response_id=first["id"])
        assert second["output"]
        assert len(up.upstream.sockets) == 2
        assert [item["role"] for item in up.upstream.asked[-1]["input"]] == ["user", "assistant", "user"]
        # The very connection that made the second one is used again.
        await ask(ws, "three", store=False, previous_response_id=second["id"])
        assert up.upstream.asked[-1]["input"] == "three"


async def test_a_connection_past_its_age_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next response has another one, while the client stays."""
    async with front(tmp_path, "socket") as up, up.open() as ws:
        first = await ask(ws, "one", store=False)
        monkeypatch.setattr(socket_answer, "_MAX_AGE_S", 0.0)
        second = await ask(ws, "two", store=False, previous_response_id=first["id"])
        assert second["output"]
        await until(lambda: up.upstream.num_closed == 1)
        assert len(up.upstream.sockets) == 2


@pytest.mark.parametrize("mode", MODES[:2])
async def test_an_answer_that_breaks_off_ends_its_lane_alone(tmp_path: Path, mode: Mode) -> None:
    """With an error event and its row; the neighbour goes on, and so does the lane."""
    async with front(tmp_path, mode) as up, up.open() as ws:
        up.upstream.pause.clear()
        await create(ws, "long", stream_id="a")
        await create(ws, "break", stream_id="b")
        await until(lambda: len(up.upstream.asked) == 2)
        up.upstream.pause.set()
        ends: dict[str, dict[str, Any]] = {}
        async with asyncio.timeout(PATIENCE_S):
            while len(ends) < 2:
                event = json.loads(await ws.recv())
                if event["type"] in {"response.completed", "error"}:
                    ends[event["stream_id"]] = event
        assert ends["a"]["type"] == "response.completed"
        assert (ends["b"]["type"], ends["b"]["code"]) == ("error", "upstream_disconnected")
        assert (await ask(ws, "again", stream_id="b"))["output"]
        await until(lambda: len(up.outcomes) == 3)
        assert sorted(outcome.status for outcome in up.outcomes) == [200, 200, 502]


@pytest.mark.parametrize("mode", MODES[:2])
async def test_a_client_that_leaves_ends_the_upstreams_work(tmp_path: Path, mode: Mode) -> None:
    """In the middle of an answer; the row says that the client left."""
    async with front(tmp_path, mode) as up:
        up.upstream.pause.clear()
        async with up.open() as ws:
            await create(ws, "long")
            while json.loads(await ws.recv())["type"] != "response.output_text.delta":
                pass
            ws.transport.abort()
        await until(lambda: len(up.outcomes) == 1)
        assert up.outcomes[0].status == 499
        up.upstream.pause.set()
        if mode == "socket":
            await until(lambda: up.upstream.num_closed == 1)
        await until(lambda: up.server.service.in_flight.count == 0)


async def test_a_refusal_keeps_the_upstreams_words_and_status(tmp_path: Path) -> None:
    """A response that nobody has; the connection goes on."""
    async with front(tmp_path, "socket") as up, up.open() as ws:
        error = await refused(ws, "x", previous_response_id="resp_nobody")
        assert (error["status"], error["error"]["code"]) == (400, "previous_response_not_found")
        assert up.upstream.asked == []
        stored = await ask(ws, "one")
        async with up.open() as other:
            # Stored at the upstream by this key, so another connection continues it there.
            assert (await ask(other, "two", previous_response_id=stored["id"]))["output"]
            kept = await ask(other, "three", store=False)
        error = await refused(ws, "x", previous_response_id=kept["id"])
        assert (error["status"], error["error"]["code"]) == (400, "previous_response_not_found")
        assert (await ask(ws, "on"))["output"]


async def test_limits_hold_for_each_request(tmp_path: Path) -> None:
    """With the error of OpenAI as an event, before the upstream is asked."""
    async with front(tmp_path, "socket", AccountSettings(rpm=1)) as up, up.open() as ws:
        await ask(ws, "one")
        error = await refused(ws, "two")
        assert (error["status"], error["error"]["code"]) == (429, "rate_limit_exceeded")
        assert len(up.upstream.asked) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 426, 501])
async def test_an_upstream_that_opens_no_websocket_is_asked_over_http(tmp_path: Path, status: int) -> None:
    """However it says so; it is not asked again for each request."""
    async with front(tmp_path, "http") as up:
        up.upstream.refuses_sockets_with = status
        for _ in range(2):
            async with up.open() as ws:
                assert (await ask(ws, "one"))["output"]
        assert up.upstream.over == ["http", "http"]
        assert up.upstream.num_sockets_asked == 1


async def test_connections_to_the_upstream_end_with_the_clients(tmp_path: Path) -> None:
    """One for each lane that runs at the same time, and no more."""
    async with front(tmp_path, "socket") as up:
        async with up.open() as ws:
            for _ in range(3):
                await ask(ws, "one")
            assert len(up.upstream.sockets) == 1
            up.upstream.pause.clear()
            for lane in ("a", "b", "c"):
                await create(ws, "x", stream_id=lane)
            await until(lambda: len(up.upstream.sockets) == 3)
            up.upstream.pause.set()
        await until(lambda: up.upstream.num_closed == 3)


@pytest.mark.parametrize("mode", MODES)
async def test_the_official_client_converses_with_a_model_of_an_upstream(tmp_path: Path, mode: Mode) -> None:
    """``responses.connect()``, with a response that is not stored and its continuation."""
    async with (
        front(tmp_path, mode) as up,
        openai.AsyncOpenAI(base_url=up.server.url, api_key="any", max_retries=0) as client,
        client.responses.connect() as connection,
    ):
        previous = None
        for text in ("hello", "and now"):
            await connection.response.create(model="m", input=text, store=False, previous_response_id=previous)
            async for event in connection:
                if event.type == "response.completed":
                    previous = event.response.id
                    assert event.response.output_text
                    break
