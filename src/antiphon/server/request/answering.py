"""Sends a generation's events as one body or as a stream."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Protocol

from antiphon.protocol.events import Event
from antiphon.server.request.account import RequestAccount
from antiphon.server.request.call import Call


class StreamRenderer(Protocol):
    """Turns events into server-sent events."""

    def feed(self, event: Event) -> list[bytes]: ...
    def done(self) -> bytes: ...


class BodyRenderer(Protocol):
    """Turns events into one JSON body."""

    def feed(self, event: Event) -> None: ...
    def encoded(self) -> bytes: ...


async def answer_whole(
    call: Call, account: RequestAccount, events: AsyncGenerator[Event], renderer: BodyRenderer
) -> None:
    """Run the generation to its end and send one body."""
    async with aclosing(account.watch(events)) as watched:
        async for event in watched:
            renderer.feed(event)
    await call.respond(renderer.encoded())


async def answer_stream(
    call: Call, account: RequestAccount, events: AsyncGenerator[Event], renderer: StreamRenderer
) -> None:
    """Stream the generation. An error before the first event is an ordinary answer, a later one an error chunk."""
    async with aclosing(account.watch(events)) as watched:
        first = await anext(watched)
        await call.stream(account.guarded(_frames(first, watched, renderer)))


async def _frames(first: Event, rest: AsyncIterator[Event], renderer: StreamRenderer) -> AsyncGenerator[bytes]:
    for frame in renderer.feed(first):
        yield frame
    async for event in rest:
        for frame in renderer.feed(event):
            yield frame
    yield renderer.done()
