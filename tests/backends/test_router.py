"""The router in front of scripted backends, on a clock that the tests move."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
from tests.backends.conformance import BackendConformance, collect, text_of
from tests.backends.faulty_api import (
    FaultyApi,
    answers,
    chunk,
    fails,
    faulty_api,
    head,
    sends,
    sends_then_resets,
    streams,
)
from tests.backends.faulty_api import (
    Script as ApiScript,
)
from tests.waiting import until

from antiphon.backends.base import Backend
from antiphon.backends.routing import BreakerSettings, Clock, RetrySettings, Router, RouteSettings, TargetSettings
from antiphon.backends.scripted.backend import ScriptedBackend
from antiphon.backends.scripted.script import Pattern, Reply, Script, ScriptedError
from antiphon.backends.upstream import UpstreamBackend, UpstreamModel, UpstreamSettings
from antiphon.errors import ConfigError
from antiphon.protocol.chat import ChatRequest, Message
from antiphon.protocol.embeddings import EmbeddingRequest
from antiphon.protocol.errors import ApiError
from antiphon.protocol.events import Started
from antiphon.protocol.relay import parse_relay

pytestmark = pytest.mark.anyio


class Time:
    """A clock that jumps over every sleep and remembers it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.sleeps: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)

    def clock(self) -> Clock:
        return Clock(now=lambda: self.now, sleep=self.sleep, chance=lambda: 0.0)


def plays(*replies: Reply, models: tuple[str, ...] = ("m",)) -> ScriptedBackend:
    return ScriptedBackend(Script(models=models, embedding_models=("e",), replies=replies))


def error(status: int, times: int | None = None, **headers: str) -> Reply:
    calls = tuple(range(1, times + 1)) if times is not None else ()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(match=Pattern(calls=calls), error=ScriptedError(status=status, headers=named))


def route(model: str, *backends: str, **more: object) -> RouteSettings:
    return RouteSettings(model=model, targets=tuple(TargetSettings(backend=name) for name in backends), **more)  # type: ignore[arg-type]


def ask(text: str = "hi", model: str = "m") -> ChatRequest:
    return ChatRequest(model=model, messages=(Message("user", text),))


async def answer(router: Router, request: ChatRequest | None = None) -> str:
    return text_of(await collect(router.chat(request or ask())))


class TestConformance(BackendConformance):
    """A router before two equal backends is a backend."""

    @pytest.fixture
    async def backend(self) -> AsyncGenerator[Router]:
        script = Script(
            rerankers=("scripted-reranker",), replies=(Reply(text="One, two, three, four, five.", token_s=0.001),)
        )
        router = Router({"a": ScriptedBackend(script), "b": ScriptedBackend(script)})
        yield router
        await router.aclose()

    def running(self, backend: Backend) -> int:
        return sum(part.values.outstanding for part in backend.statistics() if part.part == "router")  # type: ignore[attr-defined]


async def test_a_single_backend_is_asked_directly() -> None:
    """With one backend of this process the router hands its events through as they are."""
    backend = plays(Reply(text="x"))
    router = Router({"a": backend})
    events = router.chat(ask())
    assert events.__qualname__ == "ScriptedBackend.chat"  # type: ignore[attr-defined]
    assert text_of(await collect(events)) == "x"


async def test_idle_backends_take_turns_and_busy_ones_are_spared() -> None:
    """Requests go where the least is in work."""
    slow = Reply(match=Pattern(last_message="slow"), fault="hang")
    a, b = plays(slow, Reply(text="a")), plays(slow, Reply(text="b"))
    router = Router({"a": a, "b": b})
    assert {await answer(router) for _ in range(2)} == {"a", "b"}
    hanging = asyncio.ensure_future(answer(router, ask("slow")))
    await until(lambda: a.counts.running + b.counts.running == 1)
    free = "b" if a.counts.running else "a"
    assert [await answer(router) for _ in range(3)] == [free] * 3
    hanging.cancel()
    await asyncio.gather(hanging, return_exceptions=True)


async def test_weights_share_the_load() -> None:
    """A backend of weight 3 has three requests in work for each one of weight 1."""
    hang = Reply(fault="hang")
    a, b = plays(hang), plays(hang)
    targets = (TargetSettings(backend="a", weight=3), TargetSettings(backend="b"))
    router = Router({"a": a, "b": b}, [RouteSettings(model="m", targets=targets)])
    tasks = []
    for number in range(1, 9):
        tasks.append(asyncio.ensure_future(answer(router)))
        await until(lambda number=number: a.counts.running + b.counts.running == number)
    assert (a.counts.running, b.counts.running) == (6, 2)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_conversation_stays_with_its_backend() -> None:
    """With prefix balance the same beginning goes to the same backend, different ones to all."""
    backends = {name: plays(Reply(text=name)) for name in "abc"}
    router = Router(backends, [route("m", *"abc", balance="prefix")])
    first = [await answer(router, ask(f"question {number}")) for number in range(30)]
    again = [await answer(router, ask(f"question {number}")) for number in range(30)]
    assert first == again
    assert set(first) == set("abc")


async def test_a_failure_is_tried_elsewhere_at_once() -> None:
    """Another backend answers without a pause."""
    time = Time()
    router = Router({"a": plays(error(500)), "b": plays(Reply(text="b"))}, clock=time.clock())
    assert [await answer(router) for _ in range(4)] == ["b"] * 4
    assert time.sleeps == []


async def test_the_only_backend_is_tried_again_after_a_pause() -> None:
    """Pauses double, and Retry-After overrides them."""
    time = Time()
    a = plays(error(500, 2), Reply(text="fine"))
    router = Router(
        {"a": a, "down": plays(models=("other",))}, [route("m", "a", fallbacks=("other",))], clock=time.clock()
    )
    assert await answer(router) == "fine"
    assert time.sleeps == [0.25, 0.5]


async def test_retry_after_is_honoured() -> None:
    """A 429 that names its time is asked again then, not before."""
    time = Time()
    router = Router(
        {"a": plays(error(429, 1, retry_after="3"), Reply(text="ok")), "z": plays(models=("z",))},
        [route("m", "a", fallbacks=("z",))],
        clock=time.clock(),
    )
    assert await answer(router) == "ok"
    assert sum(time.sleeps) == pytest.approx(3)


async def test_a_wait_beyond_the_budget_is_not_begun() -> None:
    """If Retry-After is longer than the time there is, the client gets the error and its Retry-After at once."""
    time = Time()
    a = plays(error(429, retry_after="300"))
    router = Router({"a": a, "b": plays(error(503, retry_after="300"))}, clock=time.clock())
    with pytest.raises(ApiError) as raised:
        await answer(router)
    assert raised.value.status in {429, 503}
    assert raised.value.headers
    assert time.sleeps == []


async def test_attempts_are_bounded() -> None:
    """No request is sent more often than the settings say."""
    time = Time()
    a, b = plays(error(500)), plays(error(500))
    router = Router({"a": a, "b": b}, retry=RetrySettings(attempts=4), clock=time.clock())
    with pytest.raises(ApiError):
        await answer(router)
    assert a.counts.failed + b.counts.failed == 4


async def test_an_error_of_the_request_is_not_tried_again() -> None:
    """A 400 is the same everywhere."""
    a, b = plays(error(400)), plays(error(400))
    router = Router({"a": a, "b": b})
    with pytest.raises(ApiError):
        await answer(router)
    assert a.counts.failed + b.counts.failed == 1


async def test_nothing_is_tried_again_after_the_first_token() -> None:
    """A stream that breaks is an error, because what was said cannot be unsaid."""
    breaking = Reply(text="a b c", error=ScriptedError(status=500), after=1)
    a, b = plays(breaking), plays(breaking)
    router = Router({"a": a, "b": b})
    with pytest.raises(ApiError):
        await answer(router)
    assert a.counts.failed + b.counts.failed == 1


async def test_a_fallback_model_answers_when_all_targets_fail() -> None:
    """The fallback's own model is asked, and the answer names it."""
    time = Time()
    backends = {"a": plays(error(503)), "b": plays(Reply(text="small"), models=("small",))}
    router = Router(backends, [route("m", "a", fallbacks=("small",))], clock=time.clock())
    events = await collect(router.chat(ask()))
    assert text_of(events) == "small"
    assert isinstance(events[0], Started)
    assert events[0].model == "small"


async def test_a_broken_backend_is_left_alone() -> None:
    """After enough failures requests go elsewhere without asking it, until its cooldown is over."""
    time = Time()
    a = plays(error(500, 2), Reply(text="a"))
    router = Router(
        {"a": a, "b": plays(Reply(text="b"))}, breaker=BreakerSettings(failures=2, cooldown_s=10), clock=time.clock()
    )
    assert [await answer(router) for _ in range(6)] == ["b"] * 6
    assert a.counts.failed == 2
    time.now += 10
    assert "a" in [await answer(router) for _ in range(2)]


async def test_all_broken_is_waited_out_within_the_budget() -> None:
    """With every breaker open a request waits for the first to close rather than fail."""
    time = Time()
    a, b = plays(error(500, 1), Reply(text="a")), plays(error(500, 1), Reply(text="b"))
    router = Router({"a": a, "b": b}, breaker=BreakerSettings(failures=1, cooldown_s=2), clock=time.clock())
    assert await answer(router) in {"a", "b"}
    assert sum(time.sleeps) == pytest.approx(2)


async def test_names_are_found_in_order() -> None:
    """The very name, then patterns from the most specific, then what backends serve, then everything else."""
    backends: dict[str, Backend] = {
        name: plays(Reply(text=name), models=("gpt-4o", "gpt-x", "own", "q")) for name in "abcd"
    }
    backends["e"] = plays(Reply(text="e"), models=("own",))
    routes = [route("*", "a"), route("gpt-*", "b"), route("gpt-4*", "c"), route("gpt-4o", "d")]
    router = Router(backends, routes)
    expected = {"gpt-4o": "d", "gpt-x": "b", "q": "abcd"}
    for model, names in expected.items():
        assert await answer(router, ask(model=model)) in names
    assert await answer(router, ask(model="own")) in "abcde"
    assert router.serves("whatever")


async def test_an_alias_is_the_targets_own_name_there() -> None:
    """The backend is asked for the name that the target gives it."""
    backend = plays(Reply(text="x"), models=("real",))
    settings = RouteSettings(model="alias", targets=(TargetSettings(backend="a", model="real"),))
    router = Router({"a": backend}, [settings])
    events = await collect(router.chat(ask(model="alias")))
    assert isinstance(events[0], Started)
    assert events[0].model == "real"
    assert {model.id for model in router.models} == {"alias", "real", "e"}


async def test_an_unknown_model_is_a_404() -> None:
    """A name that nobody serves is not found."""
    router = Router({"a": plays()})
    assert not router.serves("none")
    with pytest.raises(ApiError) as raised:
        await answer(router, ask(model="none"))
    assert raised.value.code == "model_not_found"


def test_routes_must_make_sense() -> None:
    """A route to a backend that does not exist, or to itself, fails at the start."""
    with pytest.raises(ConfigError, match="nowhere"):
        Router({"a": plays()}, [route("m", "nowhere")])
    with pytest.raises(ConfigError, match="itself"):
        Router({"a": plays()}, [route("m", "a", fallbacks=("m",))])
    for name in ("m", "m*", "*"):
        with pytest.raises(ConfigError, match="two routes"):
            Router({"a": plays()}, [route(name, "a"), route(name, "a")])


async def test_health_is_ready_while_one_backend_is() -> None:
    """The detail names one that is down."""
    down = plays()
    await down.aclose()
    router = Router({"a": plays(), "b": down})
    assert router.health().state == "ready"
    assert "b" in router.health().detail


async def test_embeddings_are_tried_again_too() -> None:
    """An embedding request fails over like a chat."""
    router = Router({"a": plays(error(500)), "b": plays()})
    result = await router.embed(EmbeddingRequest(model="e", inputs=("x",)))
    assert len(result.vectors) == 1


@asynccontextmanager
async def before(*apis: FaultyApi, time: Time | None = None) -> AsyncIterator[Router]:
    upstreams = {
        f"u{number}": UpstreamBackend(
            UpstreamSettings(name=f"u{number}", base_url=api.url, models=(UpstreamModel(id="m"),))
        )
        for number, api in enumerate(apis)
    }
    router = Router(upstreams, clock=(time or Time()).clock())
    try:
        yield router
    finally:
        await router.aclose()


async def relay(router: Router, *, stream: bool) -> bytes:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": stream}
    answered = await router.relay(parse_relay("chat/completions", msgspec.json.encode(body)))
    try:
        return b"".join([piece async for piece in answered])
    finally:
        await answered.aclose()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "broken",
    [
        sends_then_resets(),
        sends_then_resets(head()),
        sends(head(content_type="text/html"), b"<html>"),
        fails("500 Oh", b"{}"),
        fails("503 Busy", b"{}", "retry-after: 1"),
        fails("401 No", b"{}"),
    ],
)
async def test_a_relayed_request_that_had_not_begun_is_not_lost(broken: ApiScript, stream: bool) -> None:
    """Whatever one upstream does before its first token, the other answers."""
    good = streams("fine") if stream else answers()
    async with faulty_api(broken) as bad, faulty_api(good) as well, before(bad, well) as router:
        for _ in range(4):
            assert (b"fine" if stream else b'"ok"') in await relay(router, stream=stream)
        assert len(bad.requests) >= 1
        assert all(part.values.outstanding == 0 for part in router.statistics() if part.part == "router")  # type: ignore[attr-defined]


async def test_a_relayed_stream_that_breaks_ends_with_an_error() -> None:
    """After the first token the error reaches the client and no other upstream is asked."""
    broken = sends_then_resets(head(), chunk("a"))
    async with faulty_api(broken) as bad, faulty_api(broken) as worse, before(bad, worse) as router:
        with pytest.raises(ApiError):
            await relay(router, stream=True)
        assert len(bad.requests) + len(worse.requests) == 1


@pytest.mark.parametrize("unit", ["requests", "tokens"])
async def test_rate_limit_headers_of_an_upstream_are_respected(unit: str) -> None:
    """An upstream that said it has nothing left is not tried while another one has."""
    spent = answers_with(
        f"x-ratelimit-limit-{unit}: 1", f"x-ratelimit-remaining-{unit}: 0", f"x-ratelimit-reset-{unit}: 60s"
    )
    async with faulty_api(spent) as a, faulty_api(answers()) as b, before(a, b) as router:
        for _ in range(6):
            await relay(router, stream=False)
        assert (len(a.requests), len(b.requests)) == (1, 5)


def answers_with(*headers: str) -> ApiScript:
    body = b'{"model":"m","choices":[{"index":0,"message":{"content":"ok"},"finish_reason":"stop"}],"usage":null}'
    return sends(head("200 OK", "application/json", f"content-length: {len(body)}", *headers), body)


async def test_a_mixed_route_goes_the_validated_way() -> None:
    """A route with a backend of this process does not relay, and falls over to it."""
    async with faulty_api(fails("500 Oh", b"{}")) as api:
        far = UpstreamBackend(UpstreamSettings(name="far", base_url=api.url, models=(UpstreamModel(id="m"),)))
        router = Router(
            {"far": far, "near": plays(Reply(text="near"))}, [route("m", "far", "near")], clock=Time().clock()
        )
        assert not router.relays("m")
        assert [await answer(router) for _ in range(3)] == ["near"] * 3
        await router.aclose()


async def test_upstreams_are_probed_until_the_router_closes() -> None:
    """start() checks the health of each upstream, and goes on at its interval."""
    listing = sends(head("200 OK", "application/json"), b'{"data":[{"id":"found-model"}]}')
    async with faulty_api(listing) as api:
        far = UpstreamBackend(UpstreamSettings(name="far", base_url=api.url))
        time = Time()
        router = Router({"far": far}, clock=time.clock())
        await router.start()
        assert router.serves("found-model")
        await until(lambda: len(api.requests) > 2)
        await router.aclose()
        assert set(time.sleeps) == {10.0}


async def test_a_machine_without_models_does_not_hide_its_dead_upstreams() -> None:
    """Ready means that something can be asked for."""
    nothing = ScriptedBackend(Script(models=(), embedding_models=()))
    far = UpstreamBackend(UpstreamSettings(name="far", base_url="http://127.0.0.1:1/v1"))
    router = Router({"local": nothing, "far": far})
    assert Router({"local": nothing}).health().state == "ready"
    assert router.health().state == "loading"
    await far.probe()
    assert router.health().state == "down"
    await router.aclose()


async def test_nothing_is_tried_again_after_the_time_is_up() -> None:
    """A try that itself took longer than all tries may is the last."""
    time = Time()

    async def slow(_: float) -> None:
        time.now += 30

    late = Reply(first_token_s=1, error=ScriptedError(status=500))
    a, b = (ScriptedBackend(Script(models=("m",), replies=(late,)), sleep=slow) for _ in range(2))
    router = Router({"a": a, "b": b}, clock=time.clock())
    with pytest.raises(ApiError):
        await answer(router)
    assert a.counts.failed + b.counts.failed == 1


async def test_a_fallback_that_nobody_serves_yet_does_not_stand_in_the_way() -> None:
    """While the fallback's upstream has not listed its models, the route works without it."""
    router = Router({"a": plays(Reply(text="a"))}, [route("m", "a", fallbacks=("unknown",))], clock=Time().clock())
    assert await answer(router) == "a"
    assert not router.relays("m")
    async with faulty_api(answers()) as api:
        far = UpstreamBackend(UpstreamSettings(name="far", base_url=api.url, models=(UpstreamModel(id="m"),)))
        relaying = Router({"far": far}, [route("m", "far", fallbacks=("unknown",))])
        assert relaying.relays("m")
        assert b'"ok"' in await relay(relaying, stream=False)
        await relaying.aclose()


async def test_embeddings_of_the_only_backend_are_not_tried_again() -> None:
    """A full engine in this process says so at once."""
    backend = plays(error(503, retry_after="1"))
    time = Time()
    with pytest.raises(ApiError):
        await Router({"a": backend}, clock=time.clock()).embed(EmbeddingRequest(model="e", inputs=("x",)))
    assert (backend.counts.failed, time.sleeps) == (1, [])
