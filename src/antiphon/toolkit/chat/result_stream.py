"""Answers that are iterated as they come, asynchronously and synchronously.

Each is iterated once, to its end, and ``reply`` is then the whole. Leaving early closes the connection (at once with
``with`` or ``async with``), and nothing is added to a conversation.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from contextlib import aclosing, closing
from typing import Generic, Self, TypeVar, cast

from antiphon.toolkit._sync import portal
from antiphon.toolkit.chat.reply import Event, Reply, TextDelta, warned
from antiphon.toolkit.errors import ToolkitError

ItemT = TypeVar("ItemT")
EndT = TypeVar("EndT")
T = TypeVar("T")


class AsyncPartStream(Generic[ItemT, EndT]):
    """Items as they come, then the whole, which is the last part and of the type ``end``."""

    def __init__(self, parts: AsyncGenerator[ItemT | EndT], end: type[EndT]) -> None:
        self._parts = parts
        self._end = end
        self._whole: EndT | None = None

    def whole(self, name: str) -> EndT:
        """Return the last part; raises ToolkitError, with the ``name`` of what was read too early, before the end."""
        if self._whole is None:
            raise ToolkitError("The stream is not at its end", hint=f"iterate it to the end before reading .{name}")
        return self._whole

    async def items(self) -> AsyncGenerator[ItemT]:
        async with aclosing(self._parts) as parts:
            async for part in parts:
                if isinstance(part, self._end):
                    self._whole = part
                else:
                    yield cast("ItemT", part)

    def __aiter__(self) -> AsyncIterator[ItemT]:
        return self.items()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._parts.aclose()


class PartStream(Generic[ItemT, EndT]):
    """What ``AsyncPartStream`` is, for synchronous code."""

    def __init__(self, stream: AsyncPartStream[ItemT, EndT]) -> None:
        self._stream = stream
        self._running: Generator[ItemT] | None = None

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


class AsyncResultStream(AsyncPartStream[ItemT, Reply[T]]):
    """Items as they come, then ``reply``."""

    def __init__(self, parts: AsyncGenerator[ItemT | Reply[T]]) -> None:
        super().__init__(parts, Reply)

    @property
    def reply(self) -> Reply[T]:
        """The whole answer; raises ToolkitError before the end of the stream."""
        return self.whole("reply")


class ResultStream(PartStream[ItemT, Reply[T]]):
    """Items as they come, then ``reply``."""

    @property
    def reply(self) -> Reply[T]:
        """The whole answer; raises ToolkitError before the end of the stream."""
        return self._stream.whole("reply")


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
