"""Responses of an upstream: relayed as bytes where it has the endpoint, made of chat completions where it has not."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import httpx2 as httpx
import openai
import pytest
from aiohttp import web
from tests.backends.faulty_api import chunk
from tests.backends.recording_api import RecordingApi, recording_api
from tests.serving import Running, outcomes_of, running
from tests.waiting import PATIENCE_S, until

from antiphon.accounts import Outcome
from antiphon.backends.routing import Router
from antiphon.backends.upstream import UpstreamBackend, UpstreamModel, UpstreamSettings
from antiphon.backends.upstream.response_inspector import ResponseInspector
from antiphon.backends.upstream.sse import MalformedStream

pytestmark = pytest.mark.anyio

USAGE = {"input_tokens": 9, "output_tokens": 4, "total_tokens": 13, "input_tokens_details": {"cached_tokens": 3}}
RESPONSE: dict[str, Any] = {
    "id": "resp_upstream1",
    "object": "response",
    "created_at": 1,
    "status": "completed",
    "model": "m-2026",
    "output": [
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "ok", "annotations": [], "new_field": 1.50}],
        }
    ],
    "usage": USAGE,
    "field_of_tomorrow": {"a": [1.50, None]},
}


def event(kind: str, number: int, **fields: Any) -> bytes:
    data = json.dumps({"type": kind, "sequence_number": number, **fields})
    return f"event: {kind}\ndata: {data}\n\n".encode()


STREAM = (
    event("response.created", 0, response={**RESPONSE, "status": "in_progress", "output": [], "usage": None})
    + b": keep-alive\n\n"
    + event("response.new_kind_of_event", 1, x=1.5)
    + event("response.output_text.delta", 2, item_id="msg_1", output_index=0, content_index=0, delta="ok", logprobs=[])
    + event("response.completed", 3, response=RESPONSE)
)
CHAT_STREAM = chunk("ok") + chunk(None, "stop") + b"data: [DONE]\n\n"


class Upstream:
    """An API with responses, which refuses an empty request as every API does."""

    def __init__(self, stream: bytes = STREAM) -> None:
        self.stream = stream

    async def __call__(self, request: web.Request, body: bytes) -> web.StreamResponse:
        if request.method != "POST" or not body:
            return web.json_response(RESPONSE)
        sent = json.loads(body)
        if not sent:
            return web.json_response({"error": {"message": "Missing model.", "code": "missing"}}, status=400)
        if not sent.get("stream"):
            return web.json_response(RESPONSE)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for at in range(0, len(self.stream), 50):
            await response.write(self.stream[at : at + 50])
        return response


async def chat_only(request: web.Request, _: bytes) -> web.StreamResponse:
    """An API without responses."""
    if request.path.endswith("/chat/completions"):
        return web.Response(body=CHAT_STREAM, content_type="text/event-stream")
    return web.json_response({"detail": "Not Found"}, status=404)


class Front(NamedTuple):
    api: RecordingApi
    server: Running
    client: openai.AsyncOpenAI
    outcomes: list[Outcome]


@asynccontextmanager
async def front(
    home: Path, handler: Any, responses: Literal["auto", "relay", "translate"] = "auto"
) -> AsyncGenerator[Front]:
    async with recording_api(handler) as api:
        upstream = UpstreamSettings(name="api", base_url=api.url, models=(UpstreamModel(id="m"),), responses=responses)
        with running(Router({"api": UpstreamBackend(upstream)}), home) as server:
            outcomes = outcomes_of(server)
            async with openai.AsyncOpenAI(
                base_url=server.url, api_key="none", max_retries=0, timeout=PATIENCE_S
            ) as client:
                yield Front(api, server, client, outcomes)


def sent(api: RecordingApi) -> list[tuple[str, str]]:
    """Return what came, without the question whether the endpoint is there."""
    return [(each.method, each.path) for each in api.requests if each.body != b"{}"]


async def test_a_whole_response_and_its_request_pass_unchanged(tmp_path: Path) -> None:
    """Fields that this server does not know, both ways; the ledger has the model and the tokens."""
    body = b'{"model": "m", "input": "hi", "tools": [{"type": "web_search"}], "field_of_tomorrow": 1.50}'
    async with front(tmp_path, Upstream()) as (api, server, _, outcomes):
        async with httpx.AsyncClient(base_url=server.root, timeout=PATIENCE_S) as client:
            headers = {"content-type": "application/json"}
            response = await client.post("/v1/responses", content=body, headers=headers)
        assert response.json() == RESPONSE
        assert json.loads(api.requests[-1].body) == json.loads(body)
        await until(lambda: len(outcomes) == 1)
        usage = outcomes[0].usage
        assert (outcomes[0].model, usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens) == (
            "m-2026",
            9,
            4,
            3,
        )


async def test_a_stream_passes_event_by_event(tmp_path: Path) -> None:
    """Its bytes, and what the official client makes of them; no end mark is added."""
    async with front(tmp_path, Upstream()) as (_, server, client, outcomes):
        async with httpx.AsyncClient(base_url=server.root, timeout=PATIENCE_S) as raw:
            response = await raw.post("/v1/responses", json={"model": "m", "input": "hi", "stream": True})
        assert response.content == STREAM
        kinds = [each.type async for each in await client.responses.create(model="m", input="hi", stream=True)]
        assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
        await until(lambda: len(outcomes) == 2)
        assert [outcome.usage.total_tokens for outcome in outcomes] == [13, 13]


async def test_the_upstream_keeps_its_response_and_continues_it(tmp_path: Path) -> None:
    """A second turn, retrieval, cancellation and deletion go where the response is; an unknown id is this server's 400."""
    async with front(tmp_path, Upstream()) as (api, _, client, _):
        first = await client.responses.create(model="m", input="hi")
        await client.responses.create(model="m", input="and?", previous_response_id=first.id)
        assert json.loads(api.requests[-1].body)["previous_response_id"] == first.id
        assert (await client.responses.retrieve(first.id)).id == first.id
        await client.responses.cancel(first.id)
        await client.responses.delete(first.id)
        assert sent(api) == [
            ("POST", "/v1/responses"),
            ("POST", "/v1/responses"),
            ("GET", f"/v1/responses/{first.id}"),
            ("POST", f"/v1/responses/{first.id}/cancel"),
            ("DELETE", f"/v1/responses/{first.id}"),
        ]
        with pytest.raises(openai.BadRequestError) as caught:
            await client.responses.create(model="m", input="and?", previous_response_id="resp_unknown1")
        assert caught.value.code == "previous_response_not_found"


async def test_a_response_that_is_not_stored_is_not_remembered(tmp_path: Path) -> None:
    """The upstream does not have it either."""
    async with front(tmp_path, Upstream()) as (_, _, client, _):
        response = await client.responses.create(model="m", input="hi", store=False)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(response.id)


async def test_an_upstream_without_the_endpoint_is_asked_once_and_translated(tmp_path: Path) -> None:
    """The response is made of its chat completion, and kept here."""
    async with front(tmp_path, chat_only) as (api, _, client, outcomes):
        for _ in range(2):
            response = await client.responses.create(model="m", input="hi")
            assert response.output_text == "ok"
        assert (await client.responses.retrieve(response.id)).output_text == "ok"
        assert [each.path for each in api.requests] == ["/v1/responses", *["/v1/chat/completions"] * 2]
        await until(lambda: len(outcomes) == 2)
        assert [outcome.status for outcome in outcomes] == [200, 200]


@pytest.mark.parametrize(("setting", "path"), [("relay", "/v1/responses"), ("translate", "/v1/chat/completions")])
async def test_the_setting_decides_without_asking(
    tmp_path: Path, setting: Literal["relay", "translate"], path: str
) -> None:
    """``relay`` and ``translate`` send one request each."""

    async def both(request: web.Request, body: bytes) -> web.StreamResponse:
        return await (chat_only if "chat" in request.path else Upstream())(request, body)

    async with front(tmp_path, both, setting) as (api, _, client, _):
        assert (await client.responses.create(model="m", input="hi")).output_text == "ok"
        assert [each.path for each in api.requests] == [path]


async def test_what_is_counted_or_compacted_goes_to_the_upstream_too(tmp_path: Path) -> None:
    """Its tokens and its sealed summaries are its own."""
    async with front(tmp_path, Upstream()) as (api, _, client, _):
        await client.post("/responses/input_tokens", body={"model": "m", "input": "hi"}, cast_to=object)
        await client.post("/responses/compact", body={"model": "m", "input": "hi"}, cast_to=object)
        assert sent(api) == [("POST", "/v1/responses/input_tokens"), ("POST", "/v1/responses/compact")]


FIRST = STREAM.partition(b": keep-alive")[0]


async def test_a_stream_that_breaks_off_ends_with_an_error_event(tmp_path: Path) -> None:
    """With the next sequence number, so that no client takes the response for complete."""
    code = "upstream_disconnected"
    async with front(tmp_path, Upstream(FIRST)) as (_, server, client, outcomes):
        async with httpx.AsyncClient(base_url=server.root, timeout=PATIENCE_S) as raw:
            response = await raw.post("/v1/responses", json={"model": "m", "input": "hi", "stream": True})
        last = response.content.split(b"\n\n")[-2]
        assert last.startswith(b"event: error\ndata: ")
        value = json.loads(last.partition(b"data: ")[2])
        assert (value["type"], value["code"], value["sequence_number"]) == ("error", code, 1)
        kinds = [each.type async for each in await client.responses.create(model="m", input="hi", stream=True)]
        assert kinds == ["response.created", "error"]
        await until(lambda: len(outcomes) == 2)
        assert all(outcome.error_code == code and outcome.is_estimate for outcome in outcomes)


async def test_an_error_before_the_response_is_an_error_answer(tmp_path: Path) -> None:
    """As an event or as a status, with the upstream's words."""
    error = event("error", 0, message="Too busy.", code="busy", param=None)
    async with front(tmp_path, Upstream(error)) as (_, _, client, _):
        with pytest.raises(openai.InternalServerError, match="Too busy") as caught:
            await client.responses.create(model="m", input="hi", stream=True)
        assert caught.value.status_code == 502


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_frames_of_any_cut_pass_and_what_is_not_json_ends_the_stream(size: int) -> None:
    """Comments and unknown events stay; ``id`` and ``retry`` go, because the official client fails on them."""
    inspector = ResponseInspector()
    sent = STREAM.replace(b"event: response.completed", b"id: 7\nretry: 1\nevent: response.completed")
    assert b"".join(inspector.feed(sent[at : at + size]) for at in range(0, len(sent), size)) == STREAM
    assert inspector.has_finished
    assert inspector.outcome.object_id == "resp_upstream1"
    # After the response's end it is no part of it.
    assert inspector.feed(b"data: {oops\n\n") == b""
    with pytest.raises(MalformedStream):
        ResponseInspector().feed(FIRST + b"data: {oops\n\n")


async def test_an_upstream_that_says_nothing_is_asked_once_and_not_waited_for(tmp_path: Path) -> None:
    """Requests that come meanwhile share the question; its time is that of a health check, not that of an answer."""
    left = asyncio.Event()

    async def silent_about_responses(request: web.Request, body: bytes) -> web.StreamResponse:
        if request.path.endswith("/responses"):
            await left.wait()
        return await chat_only(request, body)

    async with recording_api(silent_about_responses) as api:
        upstream = UpstreamSettings(name="api", base_url=api.url, models=(UpstreamModel(id="m"),), health_interval_s=2)
        with running(Router({"api": UpstreamBackend(upstream)}), tmp_path) as server:
            async with openai.AsyncOpenAI(base_url=server.url, api_key="none", timeout=PATIENCE_S) as client:
                made = [client.responses.create(model="m", input="hi") for _ in range(2)]
                assert [response.output_text for response in await asyncio.gather(*made)] == ["ok", "ok"]
        left.set()
        assert [request.path for request in api.requests].count("/v1/responses") == 1
