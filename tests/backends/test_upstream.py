"""The upstream backend before our own server, which plays a script."""

from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import msgspec
import pytest
from tests.backends.conformance import BackendConformance, collect, text_of
from tests.serving import Running, running

from antiphon.backends.base import Backend
from antiphon.backends.scripted.backend import ScriptedBackend
from antiphon.backends.scripted.script import Reply, Script
from antiphon.backends.upstream import Timeouts, UpstreamBackend, UpstreamModel, UpstreamSettings
from antiphon.errors import ConfigError
from antiphon.protocol.chat import ChatRequest, Message, Sampling, Tool, ToolChoice
from antiphon.protocol.errors import ApiError
from antiphon.protocol.relay import parse_relay

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Running]:
    script = Script(
        rerankers=("scripted-reranker",), replies=(Reply(text="One, two, three, four, five.", token_s=0.001),)
    )
    with running(ScriptedBackend(script), tmp_path_factory.mktemp("home")) as up:
        yield up


@pytest.fixture
async def backend(server: Running) -> AsyncGenerator[UpstreamBackend]:
    backend = UpstreamBackend(UpstreamSettings(name="scripted", base_url=server.url))
    await backend.probe()
    yield backend
    await backend.aclose()


class TestConformance(BackendConformance):
    counts_tokens = False

    def running(self, backend: Backend) -> int:
        assert isinstance(backend, UpstreamBackend)
        return backend.statistics()[0].values.running  # type: ignore[attr-defined]


CHAT = {"model": "scripted", "messages": [{"role": "user", "content": "hi"}]}


async def relayed(backend: UpstreamBackend, body: object, operation: str = "chat/completions") -> bytes:
    request = parse_relay(operation, msgspec.json.encode(body))  # type: ignore[arg-type]
    answer = await backend.relay(request)
    try:
        return b"".join([piece async for piece in answer])
    finally:
        await answer.aclose()


async def test_a_whole_answer_is_relayed_with_its_usage(backend: UpstreamBackend) -> None:
    """The body is relayed unchanged, and the outcome has its model, usage and finish reason."""
    answer = await backend.relay(parse_relay("chat/completions", msgspec.json.encode(CHAT)))
    body = msgspec.json.decode(b"".join([piece async for piece in answer]))
    assert body["choices"][0]["message"]["content"] == "One, two, three, four, five."
    assert answer.outcome.usage is not None
    assert answer.outcome.usage.total_tokens == body["usage"]["total_tokens"]
    assert (answer.outcome.model, answer.outcome.finish_reason) == ("scripted", "stop")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-upstream-request-id"].startswith("req_")


@pytest.mark.parametrize("asked", [True, False])
async def test_usage_of_a_stream_is_always_read_and_shown_only_if_asked(backend: UpstreamBackend, asked: bool) -> None:
    """The usage chunk is added for the ledger and taken out again for a client that did not ask."""
    options = {"stream_options": {"include_usage": True}} if asked else {}
    request = parse_relay("chat/completions", msgspec.json.encode({**CHAT, "stream": True, **options}))
    answer = await backend.relay(request)
    text = b"".join([piece async for piece in answer])
    await answer.aclose()
    assert (b'"usage"' in text) is asked
    assert text.endswith(b"data: [DONE]\n\n")
    assert answer.outcome.usage is not None
    assert answer.outcome.usage.completion_tokens == 10
    assert answer.outcome.num_chunks > 5


async def test_connections_are_used_again(backend: UpstreamBackend) -> None:
    """Streams read to their end give their connection back."""
    for _ in range(3):
        await relayed(backend, {**CHAT, "stream": True})
        await collect(backend.chat(chat("hi")))
    session = backend._http._session
    assert session is not None
    assert session.connector is not None
    assert sum(map(len, session.connector._conns.values())) == 1


async def test_embeddings_are_relayed(backend: UpstreamBackend) -> None:
    """Embeddings pass in the encoding that the client asked for."""
    body = msgspec.json.decode(
        await relayed(backend, {"model": "scripted-embedding", "input": ["a", "b"]}, "embeddings")
    )
    assert len(body["data"]) == 2
    assert isinstance(body["data"][0]["embedding"], list)


async def test_an_upstream_error_passes_with_its_words(backend: UpstreamBackend) -> None:
    """What the upstream refuses is refused with its status, message, param and code."""
    with pytest.raises(ApiError) as raised:
        await relayed(backend, {**CHAT, "temperature": 7})
    assert (raised.value.status, raised.value.param, raised.value.code) == (
        400,
        "temperature",
        "decimal_above_max_value",
    )


async def test_a_large_body_is_sent(backend: UpstreamBackend) -> None:
    """A prompt of two megabytes arrives."""
    body = {**CHAT, "messages": [{"role": "user", "content": "x" * 2_000_000}]}
    assert b"One, two" in await relayed(backend, body)


def chat(text: str, **changes: object) -> ChatRequest:
    return ChatRequest(**{"model": "scripted", "messages": (Message("user", text),), **changes})  # type: ignore[arg-type]


async def test_a_request_without_raw_json_is_written_from_its_values(backend: UpstreamBackend) -> None:
    """A request that another endpoint made reaches the upstream with all its values."""
    tool = Tool("look", parameters={"type": "object", "properties": {}})
    request = chat(
        "hi",
        sampling=Sampling(temperature=0.0, logit_bias={5: 1.0}, seed=3),
        max_tokens=4,
        stop=("zzz",),
        tools=(tool,),
        tool_choice=ToolChoice("auto"),
        logprobs=True,
        top_logprobs=1,
    )
    events = await collect(backend.chat(request))
    assert text_of(events) == "One, two,"


async def test_models_of_the_settings_are_listed_at_once() -> None:
    """Without asking the upstream, what the settings name is served and relayed."""
    models = (UpstreamModel(id="a"), UpstreamModel(id="b", kind="embedding"))
    backend = UpstreamBackend(UpstreamSettings(name="x", base_url="http://127.0.0.1:9/v1", models=models))
    assert [(model.id, model.kind) for model in backend.models] == [("a", "chat"), ("b", "embedding")]
    assert backend.relays("a")
    assert backend.health().state == "loading"
    assert (await backend.probe()).state == "down"
    await backend.aclose()


def test_the_key_comes_from_the_environment_or_a_file_and_is_never_shown(tmp_path: Path) -> None:
    """A key is read where the settings say, and no representation shows it."""
    settings = UpstreamSettings(name="x", base_url="http://h/v1", api_key_env="UPSTREAM_KEY")
    backend = UpstreamBackend(settings, environ={"UPSTREAM_KEY": "sk-very-secret"})
    assert "very-secret" not in repr(vars(backend)) + repr(vars(backend._http))
    with pytest.raises(ConfigError, match="UPSTREAM_KEY is not set"):
        UpstreamBackend(settings, environ={})
    (tmp_path / "key").write_text("sk-from-file\n")
    from_file = UpstreamSettings(name="x", base_url="http://h/v1", api_key_file=str(tmp_path / "key"))
    assert UpstreamBackend(from_file)._http._key.reveal() == "sk-from-file"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"base_url": "ftp://h/v1"}, "base_url"),
        ({"base_url": "http://user:pass@h/v1"}, "no credentials"),
        ({"headers": {"Authorization": "Bearer x"}}, "headers"),
        ({"api_key_env": "A", "api_key_file": "b"}, "not both"),
        ({"max_connections": 0}, "positive"),
    ],
)
def test_wrong_settings_are_refused(changes: dict[str, object], names: str) -> None:
    """A setting that cannot work, or would leak a key, fails when it is made."""
    with pytest.raises(ValueError, match=names):
        UpstreamSettings(**{"name": "x", "base_url": "http://h/v1", **changes})  # type: ignore[arg-type]


def test_wrong_timeouts_are_refused() -> None:
    """A timeout of nothing would fail every request."""
    with pytest.raises(ValueError, match="positive"):
        Timeouts(first_byte_s=0)
