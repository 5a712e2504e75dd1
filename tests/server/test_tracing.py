"""Spans of the server: one for each request, with what happened in it, in the client's trace and on to the upstream."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.backends.faulty_api import answers, fails, faulty_api
from tests.serving import running
from tests.waiting import PATIENCE_S, until

from antiphon.backends.routing import RetrySettings, Router
from antiphon.backends.scripted.backend import ScriptedBackend
from antiphon.backends.scripted.script import Script
from antiphon.backends.trace import TRACE
from antiphon.backends.upstream import UpstreamBackend, UpstreamModel, UpstreamSettings
from antiphon.errors import ConfigError
from antiphon.server import tracing

pytestmark = pytest.mark.anyio

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "a secret question"}]}
CLIENTS = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Generator[InMemorySpanExporter]:
    """Where the spans of a server go that is started in this test."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    yield exporter
    provider.shutdown()


def by_name(exporter: InMemorySpanExporter) -> dict[str, list[ReadableSpan]]:
    found: dict[str, list[ReadableSpan]] = {}
    for span in exporter.get_finished_spans():
        found.setdefault(span.name, []).append(span)
    return found


async def test_a_request_to_an_upstream_is_one_trace_from_client_to_upstream(
    tmp_path: Path, spans: InMemorySpanExporter
) -> None:
    """Each try is a span; the upstream gets the context of the server's span, which is a child of the client's."""
    async with faulty_api(fails("500 Oh", b"{}"), answers()) as api:
        upstream = UpstreamSettings(name="u", base_url=api.url, models=(UpstreamModel(id="m"),))
        router = Router({"u": UpstreamBackend(upstream)}, retry=RetrySettings(backoff_s=0.01, total_s=PATIENCE_S))
        with running(router, tmp_path, tracing=True) as server:
            async with httpx.AsyncClient(base_url=server.url, timeout=PATIENCE_S) as client:
                response = await client.post("/chat/completions", json=CHAT, headers={"traceparent": CLIENTS})
            assert response.status_code == 200
            await until(lambda: "POST /v1/chat/completions" in by_name(spans))
        found = by_name(spans)
        (root,) = found["POST /v1/chat/completions"]
        assert root.context is not None
        assert root.parent is not None
        assert (f"{root.context.trace_id:032x}", f"{root.parent.span_id:016x}") == tuple(CLIENTS.split("-")[1:3])
        attributes = dict(root.attributes or {})
        assert attributes["http.response.status_code"] == 200
        assert (attributes["gen_ai.usage.input_tokens"], attributes["gen_ai.usage.output_tokens"]) == (3, 1)
        assert attributes["antiphon.request_id"] == response.headers["x-request-id"]
        tries = [dict(span.attributes or {}) for span in found["upstream"]]
        assert [each["http.response.status_code"] for each in tries] == [500, 200]
        sent = {headers["traceparent"] for headers in api.headers}
        assert sent == {f"00-{root.context.trace_id:032x}-{root.context.span_id:016x}-01"}
        assert "secret" not in "".join(span.to_json() for span in spans.get_finished_spans())


async def test_the_steps_of_an_answer_follow_one_another(tmp_path: Path, spans: InMemorySpanExporter) -> None:
    """The wait, the prompt and the answer of an engine, from what it reports, without gaps."""
    backend = ScriptedBackend(Script(models=("m",)))
    chat = backend.chat

    def reported(request: Any) -> Any:
        current = TRACE.get()
        assert current is not None
        current.prefilled(0.25, 0.5)
        return chat(request)

    backend.chat = reported  # type: ignore[method-assign]
    with running(backend, tmp_path, tracing=True) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=PATIENCE_S) as client:
            await client.post("/chat/completions", json=CHAT)
            await client.post("/chat/completions", json={"model": "nobody"})
        await until(lambda: len(by_name(spans).get("POST /v1/chat/completions", [])) == 2)
    found = by_name(spans)
    (queue,), (prefill,), (decode,) = found["queue"], found["prefill"], found["decode"]
    assert (queue.end_time, prefill.end_time) == (prefill.start_time, decode.start_time)
    assert queue.start_time is not None
    assert queue.end_time is not None
    assert abs(queue.end_time - queue.start_time - 250_000_000) < 1_000
    answered, refused = found["POST /v1/chat/completions"]
    assert {span.parent.span_id for span in (queue, prefill, decode) if span.parent} == {
        answered.context.span_id if answered.context else 0
    }
    assert dict(refused.attributes or {})["error.type"] == "model_not_found"


async def test_without_the_setting_nothing_is_traced(tmp_path: Path, spans: InMemorySpanExporter) -> None:
    """Not even where the client asks for it."""
    with running(ScriptedBackend(Script(models=("m",))), tmp_path) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=PATIENCE_S) as client:
            await client.post("/chat/completions", json=CHAT, headers={"traceparent": CLIENTS})
    assert not spans.get_finished_spans()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it."""
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry", None)
    with pytest.raises(ConfigError, match="opentelemetry-api") as caught:
        tracing.Tracing()
    assert "antiphon[otel]" in (caught.value.hint or "")
