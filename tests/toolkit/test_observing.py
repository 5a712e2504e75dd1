"""Spans of the toolkit, read from an in-memory exporter."""

import asyncio
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from pydantic import BaseModel
from tests.toolkit.model_endpoints import ThinkingEndpoint
from tests.toolkit.scripted_endpoint import Endpoint, answer, error

import antiphon
from antiphon import AsyncChat, Chat, HistoryPolicy, ResponseCache, RetryPolicy

ADD = answer(None, calls=[("c1", "add", '{"a": 1, "b": 2}')])
KNOWN = {
    value for name, value in vars(gen_ai_attributes).items() if name.startswith("GEN_AI") and isinstance(value, str)
}


@pytest.fixture
def exporter() -> Generator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    antiphon.observe(tracer_provider=provider)
    yield exporter
    antiphon.stop_observing()


def spans(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


def parent(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def add(a: int, b: int) -> int:
    """Add two numbers."""
    trace.get_current_span().set_attribute("seen.by", "the tool")
    return a + b


@pytest.mark.parametrize("way", ["send", "stream", "parse"])
def test_a_message_is_one_span_with_its_tools_below_it(
    endpoint: Endpoint, exporter: InMemorySpanExporter, way: str
) -> None:
    """Through the synchronous face and its own thread, below the span of the caller; a tool sees its span as current."""

    class Number(BaseModel):
        n: int

    endpoint.replies = [ADD, answer('{"n": 3}')]
    chat = Chat(client=endpoint.client(), tools=[add])
    with TracerProvider().get_tracer("test").start_as_current_span("mine") as mine:
        if way == "stream":
            list(chat.stream("1+2?"))
        else:
            chat.send("1+2?") if way == "send" else chat.parse(Number, "1+2?")
    found = spans(exporter)
    assert set(found) == {"invoke_agent", "execute_tool add"}
    root, tool = found["invoke_agent"], found["execute_tool add"]
    assert (parent(root), parent(tool)) == (mine.get_span_context().span_id, root.context.span_id)
    assert root.attributes["gen_ai.usage.input_tokens"] == 20
    assert root.attributes["gen_ai.response.model"] == "gpt-4o-mini-dated"
    assert root.attributes["antiphon.num_calls"] == 2
    assert (tool.attributes["gen_ai.tool.call.id"], tool.attributes["seen.by"]) == ("c1", "the tool")
    for span in found.values():
        assert {name for name in span.attributes if name.startswith("gen_ai.")} <= KNOWN
        assert "gen_ai.tool.call.arguments" not in span.attributes


@pytest.mark.anyio
async def test_streams_side_by_side_keep_their_spans_apart(endpoint: Endpoint, exporter: InMemorySpanExporter) -> None:
    """The consumer of a stream is not inside its span, and each conversation has an id of its own."""
    endpoint.replies = [answer("one two three")]
    current: list[Any] = []

    async def talk() -> None:
        async with AsyncChat(client=endpoint.async_client()) as chat:
            async for _ in chat.stream("hi"):
                current.append(trace.get_current_span())
                await asyncio.sleep(0)

    await asyncio.gather(talk(), talk())
    assert all(not span.get_span_context().is_valid for span in current)
    ids = [span.attributes["gen_ai.conversation.id"] for span in exporter.get_finished_spans()]
    assert len(set(ids)) == 2


@pytest.mark.anyio
@pytest.mark.parametrize("way", ["stream", "stream_parse", "stream_resume"])
async def test_a_stream_that_is_left_early_ends_at_once(
    endpoint: Endpoint, exporter: InMemorySpanExporter, way: str
) -> None:
    """Its span, and so all that is held below it, not when the garbage is collected."""
    endpoint.replies = [answer(None, calls=[("c1", "look", "{}")]), answer("one two three")]

    @antiphon.tool(needs_approval=True)
    def look() -> str:
        return "seen"

    async with AsyncChat(client=endpoint.async_client(), tools=[look]) as chat:
        with pytest.raises(antiphon.ToolsPendingError):
            await chat.send("hi")
        if way != "stream_resume":
            chat.undo()
        exporter.clear()
        streams = {
            "stream": lambda: chat.stream("hi"),
            "stream_parse": lambda: chat.stream_parse(str, "hi"),
            "stream_resume": lambda: chat.stream_resume(True),
        }
        endpoint.replies[-1] = answer('{"value": "one two three"}')
        async with streams[way]() as stream:
            async for _ in stream:
                break
        assert "invoke_agent" in spans(exporter)


def test_what_happened_on_the_way_is_an_event(
    endpoint: Endpoint, exporter: InMemorySpanExporter, tmp_path: Path
) -> None:
    """Retries, fallbacks, answers from the cache, trims."""
    retry = RetryPolicy(attempts=2, initial_s=0.001, jitter=0)
    endpoint.replies = [error(503), answer("a"), error(404, "model_not_found"), answer("b")]
    Chat(client=endpoint.client(), retry=retry).send("x")
    Chat(client=endpoint.client(), fallbacks=["other"]).send("x")
    with ResponseCache(tmp_path / "c.sqlite") as cache:
        for _ in range(2):
            Chat(client=endpoint.client(), temperature=0, cache=cache).send("x")
    chat = Chat(client=endpoint.client(), history=HistoryPolicy(max_tokens=60))
    chat.remember("long " * 40, "longer " * 40, pin=False)
    chat.send("short")
    names = [[event.name for event in span.events] for span in exporter.get_finished_spans()]
    assert names == [["antiphon.retry"], ["antiphon.fallback"], [], ["antiphon.cache_hit"], ["antiphon.trim"]]


@pytest.mark.parametrize("way", ["send", "stream"])
def test_calls_have_spans_if_they_are_asked_for(endpoint: Endpoint, exporter: InMemorySpanExporter, way: str) -> None:
    """One for each request that was sent, below that of the exchange, with what the conventions name."""
    captured, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(captured))
    antiphon.observe(calls=True, tracer_provider=provider)
    endpoint.replies = [error(503), answer("a")]
    retry = RetryPolicy(attempts=2, initial_s=0.001, jitter=0)
    chat = Chat(client=endpoint.client(), retry=retry, temperature=0.5, max_completion_tokens=9)
    chat.send("x") if way == "send" else list(chat.stream("x"))
    failed, answered, root = captured.get_finished_spans()
    assert [failed.name, answered.name, root.name] == ["chat gpt-4o-mini", "chat gpt-4o-mini", "invoke_agent"]
    assert parent(failed) == parent(answered) == root.context.span_id
    assert (failed.attributes["error.type"], failed.status.is_ok) == ("InternalServerError", False)
    told = {
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.max_tokens": 9,
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.response.model": "gpt-4o-mini-dated",
        "gen_ai.response.finish_reasons": ("stop",),
        "server.address": "scripted.test",
    }
    assert {name: answered.attributes.get(name) for name in told} == told
    assert {name for name in answered.attributes if name.startswith("gen_ai.")} <= KNOWN
    assert (answered.kind, exporter.get_finished_spans()) == (trace.SpanKind.CLIENT, ())


def test_calls_for_embeddings_have_spans_too(exporter: InMemorySpanExporter) -> None:
    """Every call goes one way, and so has its span."""
    captured, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(captured))
    antiphon.observe(calls=True, tracer_provider=provider)
    antiphon.embed(["a"], model="m", client=ThinkingEndpoint().client(), cache=False)
    (span,) = captured.get_finished_spans()
    assert (span.name, span.attributes["gen_ai.operation.name"]) == ("embeddings m", "embeddings")
    assert exporter.get_finished_spans() == ()


def test_errors_are_on_the_span(endpoint: Endpoint, exporter: InMemorySpanExporter) -> None:
    """Of the exchange, and of a tool that failed although the exchange went on."""

    def fail() -> None:
        """Fail."""
        raise ValueError("no")

    endpoint.replies = [answer(None, calls=[("c1", "fail", "{}")]), error(400)]
    with pytest.raises(Exception, match="400"):
        Chat(client=endpoint.client(), tools=[fail]).send("x")
    found = spans(exporter)
    assert found["invoke_agent"].attributes["error.type"] == "BadRequestError"
    assert not found["invoke_agent"].status.is_ok
    assert found["execute_tool fail"].attributes["error.type"] == "failed"


def test_texts_are_captured_only_if_asked(endpoint: Endpoint, exporter: InMemorySpanExporter) -> None:
    """Arguments and results of tools."""
    provider = TracerProvider()
    captured = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(captured))
    antiphon.observe(capture_content=True, tracer_provider=provider)
    endpoint.replies = [ADD, answer("3")]
    Chat(client=endpoint.client(), tools=[add]).send("1+2?")
    tool = spans(captured)["execute_tool add"]
    assert tool.attributes["gen_ai.tool.call.arguments"] == '{"a": 1, "b": 2}'
    assert tool.attributes["gen_ai.tool.call.result"] == "3"
    assert exporter.get_finished_spans() == ()


def test_a_search_is_a_span(exporter: InMemorySpanExporter, tmp_path: Path, scripted: Any) -> None:
    """With how many chunks it found."""
    with antiphon.Index(tmp_path / "i.sqlite") as index:
        index.update([antiphon.Document("a", "Keys are rotated with one command.")])
        index.search("keys", mode="bm25")
    found = spans(exporter)["retrieval"]
    assert (found.attributes["gen_ai.operation.name"], found.attributes["antiphon.num_hits"]) == ("retrieval", 1)


def test_without_observe_nothing_is_imported() -> None:
    """Not even the API of OpenTelemetry."""
    import subprocess  # noqa: PLC0415
    import sys  # noqa: PLC0415

    code = (
        "import sys, antiphon; from antiphon.testing import ScriptedEndpoint; "
        "antiphon.Chat(client=ScriptedEndpoint(['ok']).client()).send('hi'); "
        "print([m for m in sys.modules if m.startswith('opentelemetry')])"
    )
    root = Path(antiphon.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout == "[]\n"
