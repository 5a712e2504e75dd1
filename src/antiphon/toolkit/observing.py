"""Spans of OpenTelemetry for what an instrumented client cannot see: exchanges, tools, retrieval, and what happened in them.

Names and attributes are those of the semantic conventions for generative AI, which are still in development (those of
``opentelemetry-semantic-conventions`` 0.66). Calls to models are left to an instrumentation of the client,
whose spans are children of these, unless ``observe(calls=True)`` asks for them here. Nothing of OpenTelemetry is imported before ``observe()``, and without it nothing is done.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import AbstractContextManager, aclosing, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from antiphon.toolkit.record import CallRecord

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer, TracerProvider

T = TypeVar("T")
Attributes = Mapping[str, Any]

PROVIDER = "openai"
_REQUESTED = {
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "seed": "gen_ai.request.seed",
    "n": "gen_ai.request.choice.count",
}


class _Observer:
    """What ``observe`` set; one per process."""

    tracer: Tracer | None = None
    captures_content: bool = False
    sees_calls: bool = False


def observe(
    *, calls: bool = False, capture_content: bool = False, tracer_provider: TracerProvider | None = None
) -> None:
    """Make spans from now on, with ``tracer_provider`` or the global one.

    One ``invoke_agent`` span for each message to a chat, ``execute_tool`` for each call of a tool, ``retrieval`` for each
    search of an index; events for retries, fallbacks, answers from the cache, trims and rejected answers.
    ``calls`` adds a ``chat {model}`` or ``embeddings {model}`` span for each request that is sent, for a client that is not
    instrumented (both would make two spans of one request). Texts (arguments,
    results, questions) are left out unless ``capture_content``. Needs the package ``opentelemetry-api``
    (``antiphon[otel]``); without an SDK the spans go nowhere.
    """
    from opentelemetry import trace  # noqa: PLC0415 - an extra

    provider = tracer_provider or trace.get_tracer_provider()
    _Observer.tracer = provider.get_tracer("antiphon")
    _Observer.captures_content = capture_content
    _Observer.sees_calls = calls


def stop_observing() -> None:
    """Make no spans from now on."""
    _Observer.tracer = None


@contextmanager
def span(
    name: str, attributes: Attributes, content: Attributes | None = None
) -> Generator[Callable[[Attributes], None]]:
    """Run the block in a span; yields what adds attributes to it. ``content`` is added if texts are captured.

    Not for a block with ``yield`` in it: see ``observed``.
    """
    tracer = _Observer.tracer
    if tracer is None:
        yield _ignore
        return
    with tracer.start_as_current_span(name, attributes=_all(attributes, content)) as current:
        try:
            yield lambda more: current.set_attributes(_known(more))
        except BaseException as error:
            current.set_attribute("error.type", type(error).__qualname__)
            raise


@dataclass(frozen=True, slots=True)
class ClientSpan:
    """The span of one request to a model; ``span`` None: none is wanted."""

    span: Span | None = None

    def active(self) -> AbstractContextManager[Any]:
        """Return a context in which it is the current span; it does not end with it."""
        if self.span is None:
            return nullcontext()
        from opentelemetry import trace  # noqa: PLC0415 - an extra, which observe() found

        return trace.use_span(self.span, record_exception=False, set_status_on_exception=False)

    def note_record(self, record: CallRecord) -> None:
        """Add what the answer told about itself."""
        if self.span is None:
            return
        usage = record.usage
        attributes = {
            "gen_ai.response.model": record.answered_by or None,
            "gen_ai.response.finish_reasons": None if record.finish_reason is None else [record.finish_reason],
            "gen_ai.usage.input_tokens": None if usage is None else usage.prompt_tokens,
            "gen_ai.usage.output_tokens": None if usage is None else usage.completion_tokens,
            "antiphon.cost_usd": None if record.cost is None else float(record.cost),
        }
        self.span.set_attributes(_known(attributes))


NOT_OBSERVED = ClientSpan()


@contextmanager
def client_span(operation: str, request: Mapping[str, Any], base_url: str) -> Generator[ClientSpan]:
    """Make a span around the block, which is not the current one in it; see ``ClientSpan.active``."""
    tracer = _Observer.tracer
    if tracer is None or not _Observer.sees_calls:
        yield NOT_OBSERVED
        return
    from opentelemetry.trace import SpanKind  # noqa: PLC0415 - as above

    url = urlsplit(base_url)
    model = str(request.get("model", ""))
    attributes = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": model,
        **{name: request.get(key) for key, name in _REQUESTED.items()},
        "gen_ai.request.max_tokens": request.get("max_completion_tokens") or request.get("max_tokens"),
        "server.address": url.hostname,
        "server.port": url.port or {"http": 80, "https": 443}.get(url.scheme),
    }
    current = tracer.start_span(f"{operation} {model}", kind=SpanKind.CLIENT, attributes=_known(attributes))
    try:
        yield ClientSpan(current)
    except BaseException as error:
        _fail(current, error)
        raise
    finally:
        current.end()


async def observed(
    name: str, attributes: Attributes, items: AsyncGenerator[T], ended: Callable[[], Attributes]
) -> AsyncGenerator[T]:
    """Iterate ``items`` in a span, to which ``ended`` adds attributes at the end.

    The span is current while an item is made, and not while the consumer has it.
    """
    tracer = _Observer.tracer
    if tracer is None:
        async with aclosing(items):
            async for item in items:
                yield item
        return
    from opentelemetry import context, trace  # noqa: PLC0415 - an extra, which observe() found

    current = tracer.start_span(name, attributes=_known(attributes))
    inside = trace.set_span_in_context(current)
    try:
        async with aclosing(items):
            while True:
                token = context.attach(inside)
                try:
                    item = await anext(items)
                except StopAsyncIteration:
                    break
                except BaseException as error:
                    _fail(current, error)
                    raise
                finally:
                    context.detach(token)
                yield item
    finally:
        current.set_attributes(_known(ended()))
        current.end()


def event(name: str, attributes: Attributes) -> None:
    """Add an event to the span that is current."""
    if _Observer.tracer is None:
        return
    from opentelemetry import trace  # noqa: PLC0415 - as above

    trace.get_current_span().add_event(name, _known(attributes))


def content(attributes: Attributes) -> Attributes:
    """Return ``attributes``, which hold texts, if texts are captured."""
    return attributes if _Observer.captures_content else {}


def _fail(current: Span, error: BaseException) -> None:
    from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415 - as above

    current.set_attribute("error.type", type(error).__qualname__)
    current.record_exception(error)
    current.set_status(Status(StatusCode.ERROR, str(error)))


def _all(attributes: Attributes, texts: Attributes | None) -> dict[str, Any]:
    return _known({**attributes, **(content(texts) if texts else {})})


def _known(attributes: Attributes) -> dict[str, Any]:
    """Leave out what is not known: OpenTelemetry has no null."""
    return {name: value for name, value in attributes.items() if value is not None}


def _ignore(_: Attributes) -> None:
    pass
