"""The response cache in front of a router with scripted backends."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import pytest
from tests.backends.conformance import BackendConformance, collect, text_of
from tests.backends.faulty_api import answers, chunk, faulty_api, head, sends, sends_then_is_silent, streams
from tests.waiting import until

from antiphon.backends.base import Backend
from antiphon.backends.caching import CacheSettings, CachingBackend, MemoryStore, cache_use
from antiphon.backends.routing import Router
from antiphon.backends.scripted.backend import ScriptedBackend
from antiphon.backends.scripted.script import Reply, Script, ScriptedCall, ScriptedError
from antiphon.backends.upstream import UpstreamBackend, UpstreamModel, UpstreamSettings
from antiphon.protocol.caching import CacheUse
from antiphon.protocol.chat import ChatRequest, Message, Sampling
from antiphon.protocol.completions import CompletionRequest
from antiphon.protocol.embeddings import EmbeddingRequest
from antiphon.protocol.errors import ApiError
from antiphon.protocol.events import Event, Meter, Spared, Started, Usage
from antiphon.protocol.relay import RelayRequest, parse_relay

pytestmark = pytest.mark.anyio

USE = CacheUse("key")


def plays(*replies: Reply) -> ScriptedBackend:
    return ScriptedBackend(Script(models=("m",), embedding_models=("e",), replies=replies))


class Measured(ScriptedBackend):
    """A script that counts like an engine in this machine."""

    async def chat(self, request: ChatRequest) -> AsyncGenerator[Event]:
        async for event in super().chat(request):
            measured = isinstance(event, Started)
            yield msgspec.structs.replace(event, meter=Meter(Usage(5, 7, 1), 2.5)) if measured else event


def cached(backend: Backend) -> CachingBackend:
    return CachingBackend(Router({"a": backend}), MemoryStore(1_000_000, 60))


def ask(text: str = "hi", **changes: object) -> ChatRequest:
    made = {"model": "m", "messages": (Message("user", text),), "sampling": Sampling(temperature=0), "cache": USE}
    return ChatRequest(**{**made, **changes})  # type: ignore[arg-type]


def status(events: list[Event]) -> str | None:
    assert isinstance(events[0], Started)
    return events[0].cache


class TestConformance(BackendConformance):
    """A cache before a backend is a backend."""

    @pytest.fixture
    async def backend(self) -> AsyncGenerator[CachingBackend]:
        scripted = ScriptedBackend(
            Script(
                rerankers=("scripted-reranker",), replies=(Reply(text="One, two, three, four, five.", token_s=0.001),)
            )
        )
        self.scripted = scripted
        backend = cached(scripted)
        yield backend
        await backend.aclose()

    def chat_request(self, text: str = "Count from one to ten.", **changes: object) -> ChatRequest:
        return super().chat_request(text, **{"cache": CacheUse("x", refresh=True), **changes})

    def running(self, backend: Backend) -> int:
        return self.scripted.counts.running


async def test_the_second_answer_is_the_first_one() -> None:
    """An identical request gets the same events, marked as a hit, and nothing is computed."""
    scripted = plays(Reply(reasoning="hm", text="a b", tool_calls=(ScriptedCall("f", {"x": 1}),)))
    backend = cached(scripted)
    first = await collect(backend.chat(ask(logprobs=True, top_logprobs=1)))
    second = await collect(backend.chat(ask(logprobs=True, top_logprobs=1)))
    assert (status(first), status(second)) == ("miss", "hit")
    assert second[1:] == first[1:]
    assert scripted.counts.finished == 1


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "hit"),
        ({"stream": True, "include_usage": True, "user": "u", "metadata": {"a": "b"}}, "hit"),
        ({"messages": (Message("user", "other"),)}, "miss"),
        ({"max_tokens": 3}, "miss"),
        ({"sampling": Sampling(temperature=0, seed=1)}, "miss"),
        ({"cache": CacheUse("another key")}, "miss"),
        ({"cache": CacheUse("key", refresh=True)}, "miss"),
        ({"sampling": Sampling(temperature=1)}, None),
        ({"cache": None}, None),
    ],
)
async def test_only_the_same_request_hits(changes: dict[str, Any], expected: str | None) -> None:
    """What changes the answer, or who may see it, is part of the key; the rest is not."""
    backend = cached(plays(Reply(text="x")))
    await collect(backend.chat(ask()))
    assert status(await collect(backend.chat(ask(**changes)))) == expected


async def test_seeded_requests_are_kept() -> None:
    """A seed makes an answer repeatable at any temperature."""
    backend = cached(plays(Reply(text="x")))
    seeded = ask(sampling=Sampling(temperature=1, seed=7))
    assert [status(await collect(backend.chat(seeded))) for _ in range(2)] == ["miss", "hit"]


async def test_completions_are_kept() -> None:
    """Legacy completions go the same way."""
    backend = cached(plays(Reply(text="x")))
    request = CompletionRequest(model="m", prompts=("p",), sampling=Sampling(temperature=0), cache=USE)
    assert [status(await collect(backend.complete(request))) for _ in range(2)] == ["miss", "hit"]
    uncached = msgspec.structs.replace(request, cache=None)
    assert status(await collect(backend.complete(uncached))) is None


async def test_identical_requests_in_flight_are_computed_once() -> None:
    """Those that come while the first is computed read along from its beginning."""
    gate = asyncio.Event()

    async def sleep(_: float) -> None:
        await gate.wait()

    scripted = ScriptedBackend(Script(models=("m",), replies=(Reply(text="a b c", token_s=1),)), sleep=sleep)
    backend = cached(scripted)
    readers = [asyncio.ensure_future(collect(backend.chat(ask()))) for _ in range(5)]
    await until(lambda: scripted.counts.running == 1)
    gate.set()
    answers_ = await asyncio.gather(*readers)
    assert sorted(str(status(events)) for events in answers_) == ["joined"] * 4 + ["miss"]
    assert {text_of(events) for events in answers_} == {"a b c"}
    assert scripted.counts.finished == 1


async def test_the_computation_outlives_its_first_reader() -> None:
    """If the first reader leaves, the others still get the answer; if all leave, the work ends."""
    gate = asyncio.Event()

    async def sleep(_: float) -> None:
        await gate.wait()

    scripted = ScriptedBackend(Script(models=("m",), replies=(Reply(text="a b c", token_s=1),)), sleep=sleep)
    backend = cached(scripted)
    first, second = (asyncio.ensure_future(collect(backend.chat(ask()))) for _ in range(2))
    await until(lambda: backend.statistics()[0].values.joined_total == 1)  # type: ignore[attr-defined]
    first.cancel()
    await asyncio.sleep(0)
    assert scripted.counts.running == 1
    # The reader that is charged for it waits until the work ends.
    assert not first.done()
    gate.set()
    assert text_of(await second) == "a b c"
    await asyncio.gather(first, return_exceptions=True)
    assert first.cancelled()
    gate.clear()
    lonely = asyncio.ensure_future(collect(backend.chat(ask("other"))))
    await until(lambda: scripted.counts.running == 1)
    lonely.cancel()
    await asyncio.gather(lonely, return_exceptions=True)
    assert scripted.counts.running == 0
    assert backend.statistics()[0].values.in_flight == 0  # type: ignore[attr-defined]


async def test_errors_are_not_kept() -> None:
    """A failed answer is computed again."""
    scripted = plays(Reply(text="a b", error=ScriptedError(status=500), after=1))
    backend = cached(scripted)
    for _ in range(2):
        with pytest.raises(ApiError):
            await collect(backend.chat(ask()))
    assert scripted.counts.failed == 2


async def test_embeddings_are_kept_by_content() -> None:
    """Only inputs that were never seen are computed, each once; vectors stay in their places."""
    scripted = plays()
    backend = cached(scripted)

    async def embed(*inputs: str, use: CacheUse | None = USE) -> Any:
        return await backend.embed(EmbeddingRequest(model="e", inputs=inputs, cache=use))

    plain = await embed("a", "b", "c", use=None)
    first = await embed("a", "b", "a")
    second = await embed("c", "b", "a")
    again = await embed("a", "c")
    assert plain.cached_inputs is None
    assert (first.cached_inputs, second.cached_inputs, again.cached_inputs) == (0, 2, 2)
    assert second.vectors == (plain.vectors[2], plain.vectors[1], plain.vectors[0])
    assert first.vectors[0] == first.vectors[2]
    assert (first.prompt_tokens, second.prompt_tokens, again.prompt_tokens) == (2, 1, 0)
    assert again.model == "e"
    assert (first.spared, second.spared, again.spared) == (None, Spared(Usage(2)), Spared(Usage(2)))


async def test_tokens_that_an_api_told_as_one_sum_are_not_shared_out() -> None:
    """Nobody knows what one of several inputs would have cost, so nothing is said to be spared."""
    backend = cached(plays(Reply(usage=Usage(prompt_tokens=9))))

    async def embed(*inputs: str) -> Any:
        return await backend.embed(EmbeddingRequest(model="e", inputs=inputs, cache=USE))

    await embed("a", "b")
    assert (await embed("a")).spared is None


async def test_a_kept_answer_tells_what_it_spared() -> None:
    """Who is given an answer again, or joins one in flight, learns what computing it took; who computes it spares nothing."""
    backend = cached(Measured(Script(models=("m",))))
    first = await collect(backend.chat(ask()))
    again = await collect(backend.chat(ask()))
    assert isinstance(first[0], Started)
    assert isinstance(again[0], Started)
    assert (first[0].spared, again[0].meter) == (None, None)
    assert again[0].spared == first[0].meter == Meter(Usage(5, 7, 1), 2.5)


def relayed(*, stream: bool = False, use: CacheUse | None = USE, **more: object) -> RelayRequest:
    body = {"model": "m", "messages": [], "temperature": 0, "stream": stream, **more}
    return msgspec.structs.replace(parse_relay("chat/completions", msgspec.json.encode(body)), cache=use)


def gateway(url: str) -> CachingBackend:
    settings = UpstreamSettings(name="far", base_url=url, models=(UpstreamModel(id="m"),))
    return cached(UpstreamBackend(settings))


async def send(backend: CachingBackend, request: RelayRequest) -> tuple[bytes, str | None, int]:
    answer = await backend.relay(request)
    try:
        body = b"".join([piece async for piece in answer])
        usage = answer.outcome.usage
        return body, answer.outcome.cache, usage.total_tokens if usage else -1
    finally:
        await answer.aclose()


@pytest.mark.parametrize("stream", [False, True])
async def test_relayed_answers_are_kept_byte_for_byte(stream: bool) -> None:
    """The second answer has the first one's bytes, usage and headers; the upstream is asked once."""
    async with faulty_api(streams("a", "b") if stream else answers()) as api:
        backend = gateway(api.url)
        first, second = [await send(backend, relayed(stream=stream)) for _ in range(2)]
        assert first[0] == second[0]
        assert (first[1], second[1]) == ("miss", "hit")
        assert first[2] == second[2] > 0
        assert len(api.requests) == 1
        assert (await send(backend, relayed(stream=stream, top_k=3)))[1] == "miss"
        assert (await send(backend, relayed(stream=stream, user="me")))[1] == "hit"
        assert (await send(backend, relayed(stream=stream, temperature=0.5)))[1] is None
        assert (await send(backend, relayed(stream=stream, temperature=0.5, seed=1)))[1] == "miss"
        assert (await send(backend, relayed(stream=stream, use=None)))[1] is None
        assert (await send(backend, relayed(stream=stream, use=CacheUse("key", refresh=True))))[1] == "miss"
        await backend.aclose()


async def test_relayed_requests_in_flight_are_joined() -> None:
    """Ten identical requests at once are one at the upstream."""
    async with faulty_api(streams("a", "b")) as api:
        backend = gateway(api.url)
        results = await asyncio.gather(*(send(backend, relayed(stream=True)) for _ in range(10)))
        assert len(api.requests) == 1
        assert sorted(str(result[1]) for result in results) == ["joined"] * 9 + ["miss"]
        assert len({result[0] for result in results}) == 1
        await backend.aclose()


async def test_leaving_a_relayed_flight_ends_it() -> None:
    """When its only reader leaves before the answer, the upstream's connection is closed."""
    async with faulty_api(sends_then_is_silent()) as api:
        backend = gateway(api.url)
        reader = asyncio.ensure_future(send(backend, relayed(stream=True)))
        await until(lambda: len(api.requests) == 1)
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
        await until(api.left.is_set)
        await backend.aclose()


ON = CacheSettings(store="memory", keys=("ci-*",))


@pytest.mark.parametrize(
    ("settings", "header", "name", "expected"),
    [
        (ON, None, "web", None),
        (ON, None, "ci-1", CacheUse("id")),
        (ON, "on", "web", CacheUse("id")),
        (ON, "Refresh", "web", CacheUse("id", refresh=True)),
        (ON, "off", "ci-1", None),
        (CacheSettings(store="memory", scope="server"), "on", "web", CacheUse("")),
        (CacheSettings(keys=("*",)), None, "web", None),
        (CacheSettings(), "off", "web", None),
    ],
)
def test_header_and_key_decide(
    settings: CacheSettings, header: str | None, name: str, expected: CacheUse | None
) -> None:
    """The header goes before the key's name; a server without a cache uses none."""
    assert cache_use(settings, header, "id", name) == expected


@pytest.mark.parametrize(("settings", "header"), [(ON, "maybe"), (CacheSettings(), "on")])
def test_a_header_that_cannot_be_followed_is_refused(settings: CacheSettings, header: str) -> None:
    """Nothing is silently ignored."""
    with pytest.raises(ApiError):
        cache_use(settings, header, "id", "web")


async def test_a_stream_none_of_whose_choices_ended_is_not_kept() -> None:
    """It ends in order, but it is not an answer to store."""
    body = {"model": "m", "messages": [], "seed": 1, "stream": True}
    request_ = msgspec.structs.replace(parse_relay("chat/completions", msgspec.json.encode(body)), cache=USE)
    async with faulty_api(sends(head(), chunk("a"), b"data: [DONE]\n\n")) as api:
        backend = cached(UpstreamBackend(UpstreamSettings(name="a", base_url=api.url, models=(UpstreamModel(id="m"),))))
        for _ in range(2):
            answer = await backend.relay(request_)
            assert answer.outcome.cache == "miss"
            async for _piece in answer:
                pass
            await answer.aclose()
        await backend.aclose()


class DamagedStore(MemoryStore):
    """Returns other bytes than were put."""

    def __init__(self, damaged: bytes) -> None:
        super().__init__(1_000_000, 60)
        self._damaged = damaged

    async def get(self, key: bytes) -> bytes | None:
        return self._damaged


@pytest.mark.parametrize(
    "damaged",
    [b"", b"\xc1", b"\x91", b"\x80", b"\x91\x92\x63\x80", b"\x91\x92\x00\x81\xa5model\xa2\xff\xff", b"\x91" * 100_000],
)
async def test_stored_bytes_that_cannot_be_read_are_computed_anew(damaged: bytes) -> None:
    """Whatever a store returns, the request is answered: bad text, an unknown event, nesting without end."""
    backend = CachingBackend(Router({"a": plays(Reply(text="fine"))}), DamagedStore(damaged))
    assert text_of(await collect(backend.chat(ask()))) == "fine"
    await backend.aclose()
