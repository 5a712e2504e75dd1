"""Spans of OpenTelemetry for what an instrumented client cannot see: exchanges, tools, retrieval, and what happened in them.

Names and attributes are those of the semantic conventions for generative AI, which are still in development (those of
``opentelemetry-semantic-conventions`` 0.66). Calls to models are left to an instrumentation of the client: its spans are
children of these. Nothing of OpenTelemetry is imported before ``observe()``, and without it nothing is done.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer, TracerProvider

T = TypeVar("T")
Attributes = Mapping[str, Any]

PROVIDER = "openai"


class _Observer:
    """What ``observe`` set; one per process."""

    tracer: Tracer | None = None
    captures_content: bool = False


def observe(*, capture_content: bool = False, tracer_provider: TracerProvider | None = None) -> None:
    """Make spans from now on, with ``tracer_provider`` or the global one.

    One ``invoke_agent`` span for each message to a chat, ``execute_tool`` for each call of a tool, ``retrieval`` for each
    search of an index; events for retries, fallbacks, answers from the cache, trims and rejected answers. Texts (arguments,
    results, questions) are left out unless ``capture_content``. Needs the package ``opentelemetry-api``
    (``antiphon[otel]``); without an SDK the spans go nowhere.
    """
    from opentelemetry import trace  # noqa: PLC0415 - an extra

    provider = tracer_provider or trace.get_tracer_provider()
    _Observer.tracer = provider.get_tracer("antiphon")
    _Observer.captures_content = capture_content


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
