"""The events of a turn: those of its answer, and of a summary before it or instead of it."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from antiphon.backends.base import Backend
from antiphon.protocol.events import ChoiceFinished, Completed, Started, TextDelta
from antiphon.protocol.rendering import TurnEvent
from antiphon.protocol.responses.compaction import Compacted, Compacting, summary_request, summary_text
from antiphon.server.responses.course import ToolCourse
from antiphon.server.responses.spending import Spending
from antiphon.server.responses.turns import Turn


def turn_events(backend: Backend, turn: Turn) -> AsyncGenerator[TurnEvent]:
    """Return what happens: one ``Started`` first, one ``Completed`` last, with the usage of all generations together."""
    if turn.request.prewarms:
        return warm_up_events(backend, turn)
    if turn.tools or turn.request.compacts_now or turn.compacts_first:
        return _several_generations(backend, turn)
    return backend.chat(turn.chat)


async def _several_generations(backend: Backend, turn: Turn) -> AsyncGenerator[TurnEvent]:
    spending = Spending()
    try:
        summary = None
        if turn.request.compacts_now or turn.compacts_first:
            async with aclosing(_summarise(backend, turn, spending)) as events:
                async for event in events:
                    if isinstance(event, Compacted):
                        summary = event.text
                    yield event
        if turn.request.compacts_now:
            yield ChoiceFinished(0, "stop")
            yield Completed(spending.meter.usage, is_estimate=spending.is_estimate)
            return
        course = ToolCourse(backend, turn, spending)
        async with aclosing(course.events(is_started=summary is not None, summary=summary)) as events:
            async for event in events:
                yield event
    finally:
        spending.refresh()
        await turn.close_tools()


async def warm_up_events(backend: Backend, turn: Turn) -> AsyncGenerator[TurnEvent]:
    """Yield the events of a turn that computes its prompt and answers nothing."""
    spending = Spending()
    try:
        async with aclosing(ToolCourse(backend, turn, spending).warm_up()) as events:
            async for event in events:
                yield event
    finally:
        spending.refresh()
        await turn.close_tools()


async def _summarise(backend: Backend, turn: Turn, spending: Spending) -> AsyncGenerator[TurnEvent]:
    written: list[str] = []
    async with aclosing(backend.chat(summary_request(turn.chat))) as events:
        async for event in events:
            spending.refresh()
            match event:
                case Started():
                    spending.begin(event)
                    yield msgspec.structs.replace(event, meter=spending.meter)
                    yield Compacting()
                case TextDelta():
                    written.append(event.text)
                case Completed():
                    spending.end(event, is_answer=False)
                    yield Compacted(summary_text("".join(written)))
                case _:
                    pass
