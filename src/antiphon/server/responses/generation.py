"""The events of a turn: those of its answer, and of a summary before it or instead of it."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from antiphon.backends.base import Backend
from antiphon.protocol.chat import ChatRequest
from antiphon.protocol.events import ChoiceFinished, Completed, Event, Meter, Started, TextDelta, Usage
from antiphon.protocol.responses.compaction import (
    Compacted,
    Compacting,
    after_summary,
    summary_request,
    summary_text,
)
from antiphon.server.responses.turns import Turn

TurnEvent = Event | Compacting | Compacted


async def turn_events(backend: Backend, turn: Turn) -> AsyncGenerator[TurnEvent]:
    """Yield what happens: one ``Started`` first, one ``Completed`` last, with the usage of all generations together."""
    chat, spent = turn.chat, Usage()
    if turn.request.compacts_now or turn.compacts_first:
        async with aclosing(_summarise(backend, chat)) as events:
            async for event in events:
                if isinstance(event, Completed):
                    spent = event.usage
                else:
                    if isinstance(event, Compacted):
                        chat = after_summary(chat, event.text)
                    yield event
        if turn.request.compacts_now:
            yield ChoiceFinished(0, "stop")
            yield Completed(spent)
            return
    async with aclosing(backend.chat(chat)) as answer:
        async for event in answer:
            if isinstance(event, Started) and spent.total_tokens:
                continue
            yield Completed(_sum(spent, event.usage)) if isinstance(event, Completed) else event


async def _summarise(backend: Backend, chat: ChatRequest) -> AsyncGenerator[TurnEvent]:
    written: list[str] = []
    async with aclosing(backend.chat(summary_request(chat))) as events:
        async for event in events:
            match event:
                case Started():
                    # What follows uses more than this generation: the account reads its usage from the last event.
                    yield msgspec.structs.replace(event, meter=Meter(Usage(event.prompt_tokens)))
                    yield Compacting()
                case TextDelta():
                    written.append(event.text)
                case Completed():
                    yield Compacted(summary_text("".join(written)))
                    yield event
                case _:
                    pass


def _sum(first: Usage, second: Usage) -> Usage:
    return Usage(*(a + b for a, b in zip(msgspec.structs.astuple(first), msgspec.structs.astuple(second), strict=True)))
