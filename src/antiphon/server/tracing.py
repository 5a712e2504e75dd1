"""Spans of OpenTelemetry for each request: its wait for the engine, the prompt, the answer, and its tries at upstreams.

The trace context of the client (``traceparent``) is taken over, and sent on to upstreams. A span carries times and counts, never
texts. The spans go where the process's tracer provider sends them; without an SDK they go nowhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from antiphon.accounts import CLIENT_CLOSED_REQUEST
from antiphon.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, TracerProvider

    from antiphon.server.request.call import Call

_NS = 1_000_000_000
_SERVER_ERROR = 500
_ERROR = 400
_CONTEXT_HEADERS = ("traceparent", "tracestate")


class Tracing:
    """Makes the spans of one process, with ``provider`` or the global one."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        try:
            from opentelemetry import trace  # noqa: PLC0415 - an extra
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415
        except ModuleNotFoundError as error:
            raise ConfigError(
                "[server] tracing needs the package opentelemetry-api, which is not installed",
                hint="pip install 'antiphon[otel]'",
            ) from error
        self._trace = trace
        self._propagator = TraceContextTextMapPropagator()
        self._tracer = (provider or trace.get_tracer_provider()).get_tracer("antiphon.server")

    def begin(self, call: Call, path: str) -> None:
        """Open the span of a request, as a child of the client's if it names one."""
        method: str = call.scope.get("method", "GET")
        carrier = {name: value for name in _CONTEXT_HEADERS if (value := call.header(name.encode())) is not None}
        span = self._tracer.start_span(
            f"{method} {path}",
            context=self._propagator.extract(carrier),
            kind=self._trace.SpanKind.SERVER,
            attributes={"http.request.method": method, "http.route": path, "antiphon.request_id": call.request_id},
            start_time=round(call.started_at * _NS),
        )
        inside = self._trace.set_span_in_context(span)
        sent: dict[str, str] = {}
        self._propagator.inject(sent, inside)
        call.trace.propagated = sent
        call.span = span

    def end(self, call: Call) -> None:
        """Add what is known of the request, and close its span."""
        span: Span | None = call.span
        if span is None:
            return
        call.span = None
        inside = self._trace.set_span_in_context(span)
        ended_at = call.started_at + call.elapsed_s()
        self._steps(call, inside, ended_at)
        status = call.status or 0
        for name, value in (
            ("http.response.status_code", status or None),
            ("gen_ai.response.model", call.note.get("model")),
            ("gen_ai.usage.input_tokens", call.note.get("prompt_tokens")),
            ("gen_ai.usage.output_tokens", call.note.get("completion_tokens")),
            ("error.type", str(call.note.get("error") or status) if status >= _ERROR else None),
        ):
            if value is not None:
                span.set_attribute(name, value)
        if status >= _SERVER_ERROR or status == CLIENT_CLOSED_REQUEST:
            span.set_status(self._trace.StatusCode.ERROR)
        span.end(round(ended_at * _NS))

    def _steps(self, call: Call, inside: Context, ended_at: float) -> None:
        """Make the spans below: they are known by their lengths, once the request is over."""
        trace = call.trace
        for attempt in trace.attempts:
            attributes = {"antiphon.upstream": attempt.backend, "gen_ai.request.model": attempt.model}
            started = call.started_at + attempt.start_s
            made = self._add("upstream", inside, started, started + attempt.duration_s, attributes)
            made.set_attribute("http.response.status_code", attempt.status)
            if attempt.error is not None:
                made.set_attribute("error.type", attempt.error)
                made.set_status(self._trace.StatusCode.ERROR)
            made.end(round((started + attempt.duration_s) * _NS))
        if trace.first_token_s is None:
            return
        first = call.started_at + trace.first_token_s
        if trace.prefill_s is not None and trace.queue_s is not None:
            computed = first - trace.prefill_s
            for name, start, end in (("queue", computed - trace.queue_s, computed), ("prefill", computed, first)):
                self._add(name, inside, start, end, {}).end(round(end * _NS))
        self._add("decode", inside, first, ended_at, {}).end(round(ended_at * _NS))

    def _add(self, name: str, inside: Context, start: float, end: float, attributes: dict[str, Any]) -> Span:
        kind = self._trace.SpanKind.CLIENT if name == "upstream" else self._trace.SpanKind.INTERNAL
        start = min(start, end)
        return self._tracer.start_span(
            name, context=inside, kind=kind, attributes=attributes, start_time=round(start * _NS)
        )
