"""Requests for paths that this server does not answer: sent on to an upstream with their bytes unchanged."""

import asyncio
import os
import re
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx2 as httpx
import openai
import pytest
from aiohttp import web
from tests.backends.recording_api import Handler, RecordingApi, recording_api
from tests.serving import Running, outcomes_of, running
from tests.waiting import PATIENCE_S, until

from antiphon.accounts import Accounts, AccountSettings, Outcome
from antiphon.accounts.keys import KeyStore
from antiphon.accounts.principal import Principal
from antiphon.backends.routing import Router, RouteSettings, TargetSettings
from antiphon.backends.scripted.backend import ScriptedBackend
from antiphon.backends.scripted.script import Script
from antiphon.backends.settings import GatewaySettings
from antiphon.backends.upstream import UpstreamBackend, UpstreamModel, UpstreamSettings
from antiphon.server.app import PATHS

pytestmark = pytest.mark.anyio

ODD_JSON = b'{"model" : "m", "n": 1.50,\n "text": "\\u00e9\xc3\xa9", "unknown": [null, 1e3]}'
ODD_ANSWER = b'{ "id": "thing-123456", "object":"thing", "value" : 1.50 }\n'


def paths_of_the_client() -> list[tuple[str, str]]:
    """Return each method and path that the installed official client can send, ids filled in."""
    found: set[tuple[str, str]] = set()
    for file in Path(openai.__file__).parent.glob("resources/**/*.py"):
        for method, path in re.findall(r'self\._(\w+)\(\s*(?:f|path_template\(\s*)?"(/[^"]+)"', file.read_text()):
            verb = {"get_api_list": "GET"}.get(method, method.upper())
            if verb in {"GET", "POST", "DELETE"}:
                found.add((verb, "/v1" + re.sub(r"\{[^}]+\}", "id-abcdef1234", path)))
    return sorted(found)


def is_served(path: str) -> bool:
    patterns = [re.sub(r"\{[^}]+\}", "[^/]+", served) for served in PATHS]
    return any(re.fullmatch(pattern, path.partition("?")[0]) for pattern in patterns)


class Front(NamedTuple):
    api: RecordingApi
    server: Running
    client: httpx.AsyncClient
    outcomes: list[Outcome]


async def odd_answer(_: web.Request, __: bytes) -> web.StreamResponse:
    return web.Response(body=ODD_ANSWER, content_type="application/json", headers={"x-request-id": "up-1"})


@asynccontextmanager
async def front(
    home: Path,
    handler: Handler = odd_answer,
    *,
    default: str | None = "api",
    routes: tuple[RouteSettings, ...] = (),
    key: str | None = None,
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
        gateway = GatewaySettings(upstreams=(upstream,), default_upstream=default, **settings)
        with running(Router(backends, routes), home, gateway=gateway) as server:
            headers = {"authorization": f"Bearer {key}"} if key else {}
            outcomes = outcomes_of(server)
            async with httpx.AsyncClient(base_url=server.root, timeout=PATIENCE_S, headers=headers) as client:
                yield Front(api, server, client, outcomes)


async def test_every_path_of_the_client_passes_with_its_bytes_unchanged(tmp_path: Path) -> None:
    """Method, path, query, headers of meaning and both bodies, for each path that this server does not answer itself."""
    paths = [(method, path) for method, path in paths_of_the_client() if not is_served(path)]
    assert len(paths) > 60
    async with front(tmp_path) as (api, _, client, _):
        for method, path in paths:
            sent = {"content": ODD_JSON, "headers": {"content-type": "application/json"}} if method == "POST" else {}
            mark = "&" if "?" in path else "?"
            response = await client.request(method, f"{path}{mark}after=a%20b&x%5B%5D=1", **sent)
            assert (response.status_code, response.content) == (200, ODD_ANSWER), (method, path)
            assert response.headers["x-upstream-request-id"] == "up-1"
            received = api.requests[-1]
            assert (received.method, received.path) == (method, f"{path}{mark}after=a%20b&x%5B%5D=1")
            assert received.body == (ODD_JSON if method == "POST" else b"")
            assert received.headers["authorization"] == "Bearer sk-upstream"


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("audio/mpeg", os.urandom(300_000)),
        ("text/event-stream", b'event: x\ndata: {"a":1}\n\n: comment\n\ndata: [DONE]\n\n'),
        ("application/json", b"[1, 2" + b", 3" * 700_000 + b"]"),
        ("image/png", b""),
    ],
)
async def test_an_answer_of_any_kind_comes_back_as_it_is(tmp_path: Path, content_type: str, body: bytes) -> None:
    """Sound, pictures, events with comments, JSON of megabytes, nothing at all."""

    async def answer(_: web.Request, __: bytes) -> web.StreamResponse:
        return web.Response(body=body, content_type=content_type, headers={"content-disposition": "attachment"})

    async with front(tmp_path, answer) as (_, _, client, _):
        response = await client.post("/v1/audio/speech", json={"model": "m", "input": "hi"})
        assert response.content == body
        assert response.headers["content-type"] == content_type
        assert response.headers["content-disposition"] == "attachment"


async def test_a_form_passes_in_pieces_and_its_model_chooses_the_upstream(tmp_path: Path) -> None:
    """Also where the file comes before the model; the model's own name at the upstream replaces it, and nothing else changes."""
    sound = os.urandom(2_000_000)
    route = RouteSettings(model="whisper", targets=(TargetSettings(backend="api", model="whisper-large-v3"),))
    async with front(tmp_path, default=None, routes=(route,)) as (api, _, client, _):
        for fields in (
            [("model", (None, "whisper")), ("file", ("a.mp3", sound, "audio/mpeg"))],
            [("file", ("a.mp3", sound, "audio/mpeg")), ("model", (None, "whisper"))],
        ):
            request = client.build_request("POST", "/v1/audio/transcriptions", files=fields)
            form = await request.aread() if hasattr(request, "aread") else request.read()
            response = await client.send(request)
            assert response.status_code == 200, response.text
            assert api.requests[-1].body == form.replace(b"\r\n\r\nwhisper\r\n", b"\r\n\r\nwhisper-large-v3\r\n")


async def test_an_error_of_the_upstream_is_the_clients_without_our_key(tmp_path: Path) -> None:
    """Status and words stay; a key that the upstream repeats is masked, and a refused key is a fault of this server."""

    async def refuse(request: web.Request, _: bytes) -> web.StreamResponse:
        status = int(request.query["status"])
        return web.json_response({"error": {"message": "bad sk-upstream"}}, status=status, headers={"retry-after": "7"})

    async with front(tmp_path, refuse) as (_, _, client, outcomes):
        response = await client.post("/v1/images/generations?status=429", json={"model": "m"})
        assert (response.status_code, response.json()) == (429, {"error": {"message": "bad ****"}})
        assert response.headers["retry-after"] == "7"
        refused = await client.post("/v1/images/generations?status=401", json={"model": "m"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (502, "upstream_credentials")
        await until(lambda: len(outcomes) == 2)
        assert [outcome.status for outcome in outcomes] == [429, 502]


async def test_the_ledger_has_what_the_answer_reports(tmp_path: Path) -> None:
    """In the words of images, of transcriptions and of responses; without a report the cost is unknown, which is not 0."""
    usages = iter(
        [
            {"input_tokens": 5, "output_tokens": 7, "total_tokens": 12, "input_tokens_details": {"cached_tokens": 2}},
            {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
            None,
        ]
    )

    async def answer(_: web.Request, __: bytes) -> web.StreamResponse:
        return web.json_response({"data": [], "usage": next(usages)})

    async with front(tmp_path, answer) as (_, _, client, outcomes):
        for _ in range(3):
            await client.post("/v1/images/generations", json={"model": "m"})
        await until(lambda: len(outcomes) == 3)
        counts = [
            (each.usage.prompt_tokens, each.usage.completion_tokens, each.usage.cached_tokens) for each in outcomes
        ]
        assert counts == [(5, 7, 2), (3, 1, 0), (0, 0, 0)]
        assert [each.model for each in outcomes] == ["m", "m", None]


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/v1/../admin", "segment"),
        ("/v1/audio/%2e%2e/%2e%2e/admin", "segment"),
        ("/v1/audio/..%2f..%2fadmin", "segment"),
        ("/v1/audio/..%5cadmin", "segment"),
    ],
)
async def test_a_path_cannot_leave_the_api(tmp_path: Path, path: str, named: str) -> None:
    """Our key opens more than the API's paths at some upstreams."""
    async with front(tmp_path) as (api, server, _, _):
        host, port = server.root.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"GET {path} HTTP/1.1\r\nhost: {host}:{port}\r\nconnection: close\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        assert b" 400 " in answer.split(b"\r\n")[0]
        assert named.encode() in answer
        assert not api.requests


async def test_without_an_upstream_for_it_an_unknown_path_is_a_404_with_a_hint(tmp_path: Path) -> None:
    """No model, no known object, no default; a model of this machine cannot be sent anywhere."""
    async with front(tmp_path, default=None) as (api, _, client, _):
        for response in (
            await client.get("/v1/fine_tuning/jobs"),
            await client.post("/v1/images/generations", json={"model": "here"}),
        ):
            assert (response.status_code, response.json()["error"]["code"]) == (404, "unknown_url")
        missing = await client.post("/v1/images/generations", json={"model": "nobody"})
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")
        assert not api.requests


def new_key(home: Path, principal: Principal) -> str:
    """Create a key as another process does."""
    made: list[str] = []

    def work() -> None:
        async def change() -> None:
            accounts = await Accounts.open(AccountSettings(), home)
            try:
                made.append((await (await KeyStore.open(accounts.engine, None, home)).create(principal))[0])
            finally:
                await accounts.aclose()

        asyncio.run(change())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return made[0]


async def test_an_object_belongs_to_its_upstream_and_to_the_key_that_made_it(tmp_path: Path) -> None:
    """Its owner reaches it without naming a model; to another key it does not exist, and once deleted to nobody."""
    alice = new_key(tmp_path, Principal(name="alice"))
    bob = new_key(tmp_path, Principal(name="bob"))
    async with front(tmp_path, default=None, key=alice) as (api, _, client, _):
        assert (await client.post("/v1/things", json={"model": "m"})).status_code == 200
        assert (await client.get("/v1/things/thing-123456/parts")).content == ODD_ANSWER
        theirs = {"authorization": f"Bearer {bob}"}
        refused = await client.get("/v1/things/thing-123456", headers=theirs)
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "not_found")
        # Named in a body, it chooses the upstream too.
        assert (await client.post("/v1/jobs", json={"thing": "thing-123456"})).status_code == 200
        assert (await client.post("/v1/jobs", json={"thing": "thing-123456"}, headers=theirs)).status_code == 404
        assert (await client.delete("/v1/things/thing-123456")).status_code == 200
        assert (await client.get("/v1/things/thing-123456")).json()["error"]["code"] == "unknown_url"
        assert {received.headers["authorization"] for received in api.requests} == {"Bearer sk-upstream"}


async def test_a_key_for_certain_models_reaches_no_path_without_a_model(tmp_path: Path) -> None:
    """The upstream's account is more than those models."""
    key = new_key(tmp_path, Principal(name="narrow", models=("m",)))
    async with front(tmp_path, key=key) as (api, _, client, _):
        refused = await client.get("/v1/fine_tuning/jobs")
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "model_required")
        assert (await client.post("/v1/images/edits", json={"model": "other"})).status_code == 404
        assert (await client.post("/v1/images/edits", json={"model": "m"})).status_code == 200
        assert len(api.requests) == 1


async def test_a_header_names_the_upstream_for_any_path(tmp_path: Path) -> None:
    """A path that this server answers too, such as a file for the upstream's own use; an unknown name is refused."""
    async with front(tmp_path, default=None) as (api, _, client, _):
        sent = {"content": ODD_JSON, "headers": {"content-type": "application/json", "x-antiphon-upstream": "api"}}
        assert (await client.post("/v1/responses", **sent)).content == ODD_ANSWER
        assert api.requests[-1].body == ODD_JSON
        assert not any(name.startswith("x-antiphon") for name in api.requests[-1].headers)
        sent["headers"]["x-antiphon-upstream"] = "nowhere"
        refused = await client.post("/v1/responses", **sent)
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "unknown_upstream")


async def test_an_upload_is_bounded_and_never_held_whole(tmp_path: Path) -> None:
    """The bound holds for an announced size and for a chunked body."""
    async with front(tmp_path, max_forward_bytes=1_000_000) as (api, _, client, _):

        async def pieces() -> AsyncGenerator[bytes]:
            for _ in range(40):
                yield b"x" * 50_000

        binary = {"content-type": "application/octet-stream"}
        for content in (b"x" * 1_000_001, pieces()):
            response = await client.post("/v1/containers/c/files", content=content, headers=binary)
            assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")
        fits = await client.post("/v1/containers/c/files", content=b"x" * 1_000_000, headers=binary)
        assert fits.status_code == 200
        assert len(api.requests[-1].body) == 1_000_000


async def test_a_client_that_leaves_ends_the_work_of_the_upstream(tmp_path: Path) -> None:
    """While the answer streams."""
    left = asyncio.Event()

    async def endless(request: web.Request, _: bytes) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        try:
            while True:
                await response.write(b'data: {"a": 1}\n\n')
                await asyncio.sleep(0.01)
        finally:
            left.set()

    async with front(tmp_path, endless) as (_, _, client, outcomes):
        async with client.stream("POST", "/v1/things", json={"model": "m", "stream": True}) as response:
            async for _ in response.aiter_bytes():
                break
        async with asyncio.timeout(PATIENCE_S):
            await left.wait()
        await until(lambda: len(outcomes) == 1)
        assert outcomes[0].status == 499


async def test_an_answer_that_breaks_off_breaks_off_for_the_client(tmp_path: Path) -> None:
    """No byte is added that could make it look complete."""

    async def cut(request: web.Request, _: bytes) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "audio/mpeg", "content-length": "1000"})
        await response.prepare(request)
        await response.write(b"x" * 500)
        assert request.transport is not None
        request.transport.abort()
        return response

    async with front(tmp_path, cut) as (_, _, client, outcomes):
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post("/v1/audio/speech", json={"model": "m"})
        await until(lambda: len(outcomes) == 1)
        assert (outcomes[0].status, outcomes[0].error_code) == (502, "upstream_disconnected")
