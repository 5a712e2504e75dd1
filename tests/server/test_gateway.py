"""The server as a gateway: faults of an upstream as a client sees them and as the ledger records them, and the response cache."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx2 as httpx
import msgspec
import openai
import pytest
from tests.backends.faulty_api import (
    ANSWER,
    FaultyApi,
    answers,
    chunk,
    fails,
    faulty_api,
    head,
    sends,
    sends_then_is_silent,
    sends_then_resets,
    silence,
    streams,
)
from tests.backends.faulty_api import (
    Script as ApiScript,
)
from tests.serving import Running, outcomes_of, running
from tests.waiting import PATIENCE_S, until

from antiphon.accounts import AccountSettings, ModelPrice, Outcome
from antiphon.accounts.reports import UsageQuery
from antiphon.backends.base import RelayingBackend
from antiphon.backends.caching import CacheSettings, CachingBackend, MemoryStore
from antiphon.backends.routing import BreakerSettings, RetrySettings, Router, RouteSettings, TargetSettings
from antiphon.backends.scripted.backend import ScriptedBackend
from antiphon.backends.scripted.script import Reply, Script
from antiphon.backends.upstream import Timeouts, UpstreamBackend, UpstreamModel, UpstreamSettings
from antiphon.protocol.events import Usage

pytestmark = pytest.mark.anyio

PATIENT = Timeouts()
# For upstreams that fall silent: what is waited for never comes, however long.
SILENT_BEFORE, SILENT_WITHIN = Timeouts(connect_s=2, first_byte_s=0.2), Timeouts(between_bytes_s=0.2)
CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


class Gateway(NamedTuple):
    server: Running
    client: httpx.AsyncClient
    outcomes: list[Outcome]


@asynccontextmanager
async def gateway(backend: RelayingBackend, home: Path, **settings: Any) -> AsyncIterator[Gateway]:
    with running(backend, home, **settings) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=PATIENCE_S) as client:
            yield Gateway(server, client, outcomes_of(server))


def before(*urls: str, timeouts: Timeouts = PATIENT) -> Router:
    upstreams = {
        f"u{number}": UpstreamBackend(
            UpstreamSettings(name=f"u{number}", base_url=url, models=(UpstreamModel(id="m"),), timeouts=timeouts)
        )
        for number, url in enumerate(urls)
    }
    retry = RetrySettings(attempts=2, total_s=PATIENCE_S, backoff_s=0.01)
    return Router(upstreams, retry=retry, breaker=BreakerSettings(failures=1000))


def refuses_connections() -> str:
    return "http://127.0.0.1:1/v1"


BEFORE: list[tuple[str, ApiScript, int, str | None]] = [
    ("reset", sends_then_resets(), 502, "upstream_disconnected"),
    ("429", fails("429 Too Many", b'{"error":{"message":"x","code":"rate"}}', "retry-after: 300"), 429, "rate"),
    ("500", fails("500 Oh", b'{"error":{"message":"x","code":"oh"}}'), 500, "oh"),
    ("silence", silence, 504, "upstream_timeout"),
    ("garbage", sends(b"\x00\x01\x02garbage\r\n\r\n"), 502, "upstream_protocol_error"),
    ("content type", sends(head(content_type="text/html"), b"<p>"), 502, "upstream_protocol_error"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("script", "status", "code"), [case[1:] for case in BEFORE], ids=[case[0] for case in BEFORE])
async def test_a_fault_before_the_answer_is_an_error_answer(
    tmp_path: Path, script: ApiScript, status: int, code: str | None, stream: bool
) -> None:
    """The client gets one error in OpenAI's envelope with the documented status, and the ledger one row with it."""
    timeouts = SILENT_BEFORE if script is silence else PATIENT
    async with (
        faulty_api(script) as api,
        gateway(before(api.url, timeouts=timeouts), tmp_path) as (_, client, outcomes),
    ):
        response = await client.post("/chat/completions", json={**CHAT, "stream": stream})
        assert response.status_code == status
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
        assert response.json()["error"]["code"] == code
        assert response.headers["x-request-id"].startswith("req_")
        await until(lambda: len(outcomes) == 1)
        assert (outcomes[0].status, outcomes[0].usage.total_tokens) == (status, 0)
        if status == 429:
            assert response.headers["retry-after"] == "300"


async def test_a_refused_connection_is_a_502(tmp_path: Path) -> None:
    """Nothing listens there."""
    async with gateway(before(refuses_connections()), tmp_path) as (_, client, outcomes):
        response = await client.post("/chat/completions", json=CHAT)
        assert (response.status_code, response.json()["error"]["code"]) == (502, "upstream_unreachable")
        assert "127.0.0.1" not in response.text
        await until(lambda: [outcome.status for outcome in outcomes] == [502])


WITHIN: list[tuple[str, ApiScript, int, str]] = [
    ("reset", sends_then_resets(head(), chunk("a")), 502, "upstream_disconnected"),
    ("end", sends(head(), chunk("a")), 502, "upstream_disconnected"),
    ("silence", sends_then_is_silent(head(), chunk("a")), 504, "upstream_timeout"),
]


@pytest.mark.parametrize(("script", "status", "code"), [case[1:] for case in WITHIN], ids=[case[0] for case in WITHIN])
async def test_a_fault_within_a_stream_is_an_error_chunk(
    tmp_path: Path, script: ApiScript, status: int, code: str
) -> None:
    """What had come is passed on; then the official client raises instead of taking the rest for the whole."""
    timeouts = SILENT_WITHIN if code == "upstream_timeout" else PATIENT
    async with (
        faulty_api(script) as api,
        gateway(before(api.url, timeouts=timeouts), tmp_path) as (server, client, outcomes),
    ):
        response = await client.post("/chat/completions", json={**CHAT, "stream": True})
        frames = [frame.removeprefix("data: ") for frame in response.text.split("\n\n") if frame]
        assert response.status_code == 200
        assert msgspec.json.decode(frames[0])["choices"][0]["delta"]["content"] == "a"
        assert msgspec.json.decode(frames[1])["error"]["code"] == code
        assert len(frames) == 2
        await until(lambda: len(outcomes) == 1)
        assert outcomes[0].status == status
        official = openai.AsyncOpenAI(base_url=server.url, api_key="any", max_retries=0)
        stream = await official.chat.completions.create(model="m", messages=CHAT["messages"], stream=True)
        with pytest.raises(openai.APIError):
            async for _ in stream:
                pass
        await official.close()


async def test_garbage_within_a_stream_is_an_error_chunk(tmp_path: Path) -> None:
    """Data that is not JSON never reaches the client."""
    script = sends(head(), chunk("a"), b"data: {garb", b"age\n\n", b"data: [DONE]\n\n")
    async with faulty_api(script) as api, gateway(before(api.url), tmp_path) as (_, client, outcomes):
        response = await client.post("/chat/completions", json={**CHAT, "stream": True})
        assert "garb" not in response.text.partition("error")[0]
        assert "upstream_protocol_error" in response.text
        await until(lambda: len(outcomes) == 1)
        assert outcomes[0].status == 502


async def test_a_client_that_leaves_frees_the_upstream(tmp_path: Path) -> None:
    """The upstream's connection is closed, and the ledger says that the client left."""
    script = sends_then_is_silent(head(), chunk("a"))
    async with faulty_api(script) as api, gateway(before(api.url), tmp_path) as (_, client, outcomes):
        async with client.stream("POST", "/chat/completions", json={**CHAT, "stream": True}) as response:
            async for piece in response.aiter_bytes():
                assert b'"a"' in piece
                break
        await until(api.left.is_set)
        await until(lambda: [outcome.status for outcome in outcomes] == [499])


async def test_leaving_before_the_usage_is_reported_is_not_free(tmp_path: Path) -> None:
    """What had come of the answer is booked by estimate, costs what that costs, and stays charged to the limit."""
    script = sends_then_is_silent(head(), chunk("a") + chunk("b") + chunk(None, "stop"))
    accounts = AccountSettings(tpm=1000, prices={"m": ModelPrice(input=0, output=1_000_000)})
    body = {**CHAT, "messages": [{"role": "user", "content": "x" * 400}], "stream": True}
    async with (
        faulty_api(script) as api,
        gateway(before(api.url), tmp_path, accounts=accounts) as (server, client, outcomes),
    ):
        async with client.stream("POST", "/chat/completions", json=body) as response:
            async for _ in response.aiter_bytes():
                break
        await until(lambda: len(outcomes) == 1)
        assert (outcomes[0].status, outcomes[0].is_estimate, outcomes[0].usage.completion_tokens) == (499, True, 3)
        assert 100 <= outcomes[0].usage.prompt_tokens <= 110
        (total,) = await asyncio.wrap_future(
            asyncio.run_coroutine_threadsafe(server.service.accounts.report(UsageQuery()), server.loop)
        )
        assert (total.usd, total.num_estimated) == (3.0, 1)
        async with client.stream("POST", "/chat/completions", json=body) as response:
            assert int(response.headers["x-ratelimit-remaining-tokens"]) < 1000 - 103 - 100 + 10


async def test_an_answer_read_as_events_without_usage_is_booked_by_estimate(tmp_path: Path) -> None:
    """A route with a local backend reads the upstream's stream; the answer is complete, and its row is an estimate."""
    script = sends(head(), chunk("a"), chunk("b", "stop"), b"data: [DONE]\n\n")
    async with faulty_api(script) as api:
        settings = UpstreamSettings(name="far", base_url=api.url, models=(UpstreamModel(id="m"),))
        targets = (TargetSettings(backend="far"), TargetSettings(backend="near", model="scripted", weight=1e-9))
        backends = {"far": UpstreamBackend(settings), "near": ScriptedBackend()}
        router = CachingBackend(Router(backends, [RouteSettings(model="m", targets=targets)]), MemoryStore(1, 60))
        async with gateway(router, tmp_path) as (_, client, outcomes):
            body = {**CHAT, "messages": [{"role": "user", "content": "x" * 400}]}
            answer = (await client.post("/chat/completions", json=body)).json()
            await until(lambda: len(outcomes) == 1)
    assert answer["choices"][0]["message"]["content"] == "ab"
    assert answer["usage"]["completion_tokens"] == 2
    assert outcomes[0].is_estimate
    assert outcomes[0].usage.completion_tokens == 2
    assert outcomes[0].usage.prompt_tokens == 100


async def test_an_api_that_never_reports_its_usage_is_booked_by_estimate(tmp_path: Path) -> None:
    """So is its whole answer: its tokens are not 0."""
    unreported = {name: value for name, value in ANSWER.items() if name != "usage"}
    async with faulty_api(answers(unreported)) as api, gateway(before(api.url), tmp_path) as (_, client, outcomes):
        await client.post("/chat/completions", json=CHAT)
        await until(lambda: len(outcomes) == 1)
        assert outcomes[0].is_estimate
        assert outcomes[0].usage.prompt_tokens > 0
        assert outcomes[0].usage.completion_tokens == len(json.dumps(unreported)) // 4


async def test_who_began_an_answer_that_others_read_along_with_pays_for_all_of_it(tmp_path: Path) -> None:
    """A client that leaves while others share its answer is still charged for it."""
    gate = asyncio.Event()

    async def script(api: FaultyApi, writer: asyncio.StreamWriter) -> None:
        writer.write(head() + chunk("a"))
        await gate.wait()
        usage = {"prompt_tokens": 3, "completion_tokens": 5}
        writer.write(chunk("b", "stop") + chunk(None, usage=usage) + b"data: [DONE]\n\n")
        await writer.drain()

    settings = CacheSettings(store="memory")
    async with faulty_api(script) as api:
        backend = CachingBackend(before(api.url), MemoryStore(1_000_000, 60))
        async with gateway(backend, tmp_path, cache=settings) as (_, client, outcomes):
            body = {**CHAT, "temperature": 0, "stream": True}
            client.headers["x-antiphon-cache"] = "on"
            async with client.stream("POST", "/chat/completions", json=body) as first:
                # Kept, because an iterator that is forgotten closes the response.
                pieces = first.aiter_bytes()
                await anext(pieces)
                second = asyncio.ensure_future(client.post("/chat/completions", json=body))
                await until(lambda: backend.statistics()[0].values.joined_total == 1)  # type: ignore[attr-defined]
            gate.set()
            assert '"b"' in (await second).text
            await until(lambda: len(outcomes) == 2)
    booked = {outcome.cache: (outcome.usage, outcome.is_estimate) for outcome in outcomes}
    assert booked == {"miss": (Usage(3, 5), False), "joined": (Usage(3, 5), False)}
    # A client that closed is told from one that only finished sending by the reset that it answers with: a moment later.
    assert {outcome.cache: outcome.status in {200, 499} for outcome in outcomes} == {"miss": True, "joined": True}


async def test_requests_that_had_not_begun_survive_the_loss_of_an_upstream(tmp_path: Path) -> None:
    """With one of two upstreams broken, a hundred requests at once are all answered."""
    async with (
        faulty_api(sends_then_resets()) as broken,
        faulty_api(answers()) as good,
        gateway(before(broken.url, good.url), tmp_path) as (_, client, outcomes),
    ):
        responses = await asyncio.gather(*(client.post("/chat/completions", json=CHAT) for _ in range(100)))
        assert {response.status_code for response in responses} == {200}, [
            r.text for r in responses if r.status_code != 200
        ][:3]
        await until(lambda: len(outcomes) == 100)
        assert {outcome.usage.total_tokens for outcome in outcomes} == {4}


async def test_the_ledger_has_the_usage_of_streams_whose_client_did_not_ask(tmp_path: Path) -> None:
    """Usage is read on the way through and taken out of the stream."""
    async with faulty_api(streams("a", "b")) as api, gateway(before(api.url), tmp_path) as (_, client, outcomes):
        response = await client.post("/chat/completions", json={**CHAT, "stream": True})
        assert "usage" not in response.text
        assert response.text.endswith("data: [DONE]\n\n")
        await until(lambda: len(outcomes) == 1)
        assert (outcomes[0].usage.prompt_tokens, outcomes[0].usage.completion_tokens) == (3, 2)
        assert outcomes[0].model == "m"
        assert outcomes[0].first_token_s is not None


async def test_parameters_of_tomorrow_reach_the_upstream(tmp_path: Path) -> None:
    """For a model that another API serves, it is that API which says what a request may contain."""
    async with faulty_api(answers()) as api, gateway(before(api.url), tmp_path) as (_, client, _):
        response = await client.post("/chat/completions", json={**CHAT, "top_k": 5, "messages": []})
        assert response.status_code == 200
        assert response.json()["field_of_tomorrow"] == {"a": [1.5, None]}
        assert api.requests[0]["top_k"] == 5


@pytest.mark.parametrize("is_cached", [False, True])
async def test_made_up_names_have_no_limits_of_their_own(tmp_path: Path, is_cached: bool) -> None:
    """Behind a pattern for one model a key has one limit, under whatever name it asks for that model."""
    async with faulty_api(answers()) as api:
        far = UpstreamBackend(UpstreamSettings(name="far", base_url=api.url))
        route = RouteSettings(model="*", targets=(TargetSettings(backend="far", model="m"),))
        backend: RelayingBackend = Router({"far": far}, [route])
        if is_cached:
            backend = CachingBackend(backend, MemoryStore(1_000_000, 60))
        async with gateway(backend, tmp_path, accounts=AccountSettings(rpm=2)) as (_, client, outcomes):
            asked = [await client.post("/chat/completions", json={**CHAT, "model": f"a{n}"}) for n in range(4)]
    assert [response.status_code for response in asked] == [200, 200, 429, 429]
    assert "for a2 in organization" in asked[2].text
    assert len(outcomes) == 4


async def test_embeddings_cannot_be_asked_for_as_a_stream_that_counts_as_a_fault(tmp_path: Path) -> None:
    """``stream`` on embeddings is for the upstream to classify_error; its answer in one piece does not count as a broken stream."""
    refusal = b'{"error": {"message": "Not with a stream.", "code": "unknown_parameter"}}'
    async with (
        faulty_api(fails("400 Bad Request", refusal), answers({"data": [], "model": "m"})) as api,
        gateway(before(api.url), tmp_path) as (_, client, _),
    ):
        body = {"model": "m", "input": "x", "stream": True}
        refused, answered = [await client.post("/embeddings", json=body) for _ in range(2)]
    assert (refused.status_code, answered.status_code, answered.json()["model"]) == (400, 200, "m")
    assert "stream_options" not in api.requests[0]


async def test_a_model_of_this_machine_is_validated_as_ever(tmp_path: Path) -> None:
    """With upstreams configured, requests for a local model still get OpenAI's exact errors."""
    router = Router({"near": ScriptedBackend(), "far": before("http://127.0.0.1:1/v1")._backends["u0"]})
    async with gateway(router, tmp_path) as (_, client, _):
        response = await client.post("/chat/completions", json={**CHAT, "model": "scripted", "n": "two"})
        assert response.json()["error"]["code"] == "invalid_type"
        assert response.json()["error"]["param"] == "n"


@pytest.fixture
async def caching(tmp_path: Path) -> AsyncGenerator[Gateway]:
    scripted = ScriptedBackend(Script(replies=(Reply(text="one two three"),)))
    backend = CachingBackend(Router({"a": scripted}), MemoryStore(1_000_000, 60))
    async with gateway(backend, tmp_path, cache=CacheSettings(store="memory")) as made:
        yield made


async def test_hits_are_marked_in_header_and_ledger(caching: Gateway) -> None:
    """The second identical request costs nothing and says why, whole or streamed."""
    body = {"model": "scripted", "messages": CHAT["messages"], "temperature": 0}
    on = {"x-antiphon-cache": "on"}
    first = await caching.client.post("/chat/completions", json=body, headers=on)
    second = await caching.client.post("/chat/completions", json=body, headers=on)
    third = await caching.client.post("/chat/completions", json={**body, "stream": True}, headers=on)
    plain = await caching.client.post("/chat/completions", json=body)
    marks = [response.headers.get("x-antiphon-cache") for response in (first, second, third, plain)]
    assert marks == ["miss", "hit", "hit", None]
    assert first.json()["choices"] == second.json()["choices"]
    assert first.json()["usage"] == second.json()["usage"]
    await until(lambda: len(caching.outcomes) == 4)
    assert [outcome.cache for outcome in caching.outcomes] == marks


async def test_what_a_hit_saved_is_booked_and_shown(tmp_path: Path) -> None:
    """Hits of every way cost 0 and save what the price table says: rendered, relayed, embedded; costs show both sums."""
    prices = {name: ModelPrice(input=1000, output=2000) for name in ("scripted", "scripted-embedding", "m")}
    async with faulty_api(answers()) as api:
        router = Router(
            {"near": ScriptedBackend(Script(replies=(Reply(text="one two"),))), **before(api.url)._backends}
        )
        backend = CachingBackend(router, MemoryStore(1_000_000, 60))
        settings = AccountSettings(prices=prices)
        async with gateway(backend, tmp_path, cache=CacheSettings(store="memory"), accounts=settings) as (
            up,
            client,
            _,
        ):
            client.headers["x-antiphon-cache"] = "on"
            chat = {**CHAT, "temperature": 0}
            for _ in range(2):
                await client.post("/chat/completions", json={**chat, "model": "scripted"})
                await client.post("/chat/completions", json=chat)
                await client.post("/embeddings", json={"model": "scripted-embedding", "input": ["a b", "c"]})
            await client.post("/embeddings", json={"model": "scripted-embedding", "input": ["c", "new"]})
            report = up.service.accounts.report(UsageQuery(by=("model",)))
            found = await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(report, up.loop))
            totals = {total.model: total for total in found}
            query = {"start_time": int(time.time()) - 3_600, "group_by": "line_item"}
            costs = (await client.get("/organization/costs", params=query)).json()
    assert {name: total.saved_usd for name, total in totals.items()} == pytest.approx(
        {"m": totals["m"].usd, "scripted": totals["scripted"].usd, "scripted-embedding": 0.004}
    )
    assert totals["scripted-embedding"].usd == pytest.approx(0.004)
    saved = {cost["line_item"]: cost["saved_amount"]["value"] for day in costs["data"] for cost in day["results"]}
    assert saved == {name: total.saved_usd for name, total in totals.items()}


async def test_embedding_hits_are_marked(caching: Gateway) -> None:
    """An embedding whose inputs are all known is a hit."""
    for mark in ("miss", "hit"):
        response = await caching.client.post(
            "/embeddings", json={"model": "scripted-embedding", "input": ["a"]}, headers={"x-antiphon-cache": "on"}
        )
        assert response.headers["x-antiphon-cache"] == mark


async def test_a_wrong_cache_header_is_refused(caching: Gateway) -> None:
    """A header that cannot be followed is an error of the request."""
    body = {**CHAT, "model": "scripted"}
    response = await caching.client.post("/chat/completions", json=body, headers={"x-antiphon-cache": "perhaps"})
    assert response.status_code == 400
    assert "x-antiphon-cache" in response.json()["error"]["message"]


async def test_a_relayed_body_says_that_it_is_json_too(tmp_path: Path) -> None:
    """A content type that a web page can send without a preflight is refused, whichever backend would answer."""
    async with faulty_api(answers()) as api, gateway(before(api.url), tmp_path) as (_, client, _):
        response = await client.post(
            "/chat/completions", content=msgspec.json.encode(CHAT), headers={"content-type": "text/plain"}
        )
    assert (response.status_code, response.json()["error"]["code"]) == (415, "unsupported_content_type")
