"""Answers that are iterated as they come, asynchronously and synchronously.

Each is iterated once, to its end, and ``reply`` is then the whole. Leaving early closes the connection (at once with
``with`` or ``async with``), and nothing is added to a conversation.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from contextlib import aclosing, closing
from typing import Generic, Self, TypeVar

from antiphon.toolkit._sync import portal
from antiphon.toolkit.chat.reply import Event, Reply, TextDelta, warned
from antiphon.toolkit.errors import ToolkitError

ItemT = TypeVar("ItemT")
T = TypeVar("T")


class AsyncResultStream(Generic[ItemT, T]):
    """Items as they come, then ``reply``."""

    def __init__(self, parts: AsyncGenerator[ItemT | Reply[T]]) -> None:
        self.parts = parts
        self._reply: Reply[T] | None = None

    @property
    def reply(self) -> Reply[T]:
        """The whole answer; raises ToolkitError before the end of the stream."""
        if self._reply is None:
            raise ToolkitError("The stream is not at its end", hint="iterate it to the end before reading .reply")
        return self._reply

    async def items(self) -> AsyncGenerator[ItemT]:
        async with aclosing(self.parts) as parts:
            async for part in parts:
                if isinstance(part, Reply):
                    self._reply = part
                else:
                    yield part

    def __aiter__(self) -> AsyncIterator[ItemT]:
        return self.items()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.parts.aclose()


class ResultStream(Generic[ItemT, T]):
    """Items as they come, then ``reply``."""

    def __init__(self, stream: AsyncResultStream[ItemT, T]) -> None:
        self._stream = stream
        self._running: Generator[ItemT] | None = None

    @property
    def reply(self) -> Reply[T]:
        """The whole answer; raises ToolkitError before the end of the stream."""
        return self._stream.reply

    def items(self) -> Generator[ItemT]:
        self._running = portal.iterate(self._stream.items())
        return self._running

    def __iter__(self) -> Iterator[ItemT]:
        with closing(self.items()) as items:
            yield from items

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._running is not None:
            self._running.close()


class AsyncReplyStream(Generic[T]):
    """Iterate it for pieces of text, or ``events()`` for the calls of tools as well.

    An answer that was cut at the token limit warns at the end of the text.
    """

    def __init__(self, parts: AsyncGenerator[Event | Reply[T]]) -> None:
        self._stream: AsyncResultStream[Event, T] = AsyncResultStream(parts)

    @property
    def reply(self) -> Reply[T]:
        """The whole answer; raises ToolkitError before the end of the stream."""
        return self._stream.reply

    def events(self) -> AsyncGenerator[Event]:
        return self._stream.items()

    async def __aiter__(self) -> AsyncIterator[str]:
        async with aclosing(self.events()) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    yield event.text
        warned(self.reply)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stream.__aexit__()


class ReplyStream(Generic[T]):
    """Iterate it for pieces of text, or ``events()`` for the calls of tools as well.

    An answer that was cut at the token limit warns at the end of the text.
    """

    def __init__(self, parts: AsyncGenerator[Event | Reply[T]]) -> None:
        self._stream: ResultStream[Event, T] = ResultStream(AsyncResultStream(parts))

    @property
    def reply(self) -> Reply[T]:
        """The whole answer; raises ToolkitError before the end of the stream."""
        return self._stream.reply

    def events(self) -> Generator[Event]:
        return self._stream.items()

    def __iter__(self) -> Iterator[str]:
        with closing(self.events()) as events:
            for event in events:
                if isinstance(event, TextDelta):
                    yield event.text
        warned(self.reply)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.__exit__()
