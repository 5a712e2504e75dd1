"""A cited answer that is read while the model writes it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from contextlib import aclosing, closing
from typing import Self

from antiphon.toolkit._sync import portal
from antiphon.toolkit.errors import ToolkitError
from antiphon.toolkit.index.answers import CitedAnswer


class AsyncAnswerStream:
    """Pieces of the text, then ``answer``. Leaving early closes the connection (at once with ``async with``)."""

    def __init__(self, parts: AsyncGenerator[str | CitedAnswer]) -> None:
        self._parts = parts
        self._answer: CitedAnswer | None = None

    @property
    def answer(self) -> CitedAnswer:
        """The whole answer with its citations; raises ToolkitError before the end of the stream."""
        if self._answer is None:
            raise ToolkitError("The stream is not at its end", hint="iterate it to the end before reading .answer")
        return self._answer

    async def __aiter__(self) -> AsyncIterator[str]:
        async with aclosing(self._parts) as parts:
            async for part in parts:
                if isinstance(part, CitedAnswer):
                    self._answer = part
                else:
                    yield part

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._parts.aclose()


class AnswerStream:
    """Pieces of the text, then ``answer``. Leaving early closes the connection (at once with ``with``)."""

    def __init__(self, stream: AsyncAnswerStream) -> None:
        self._stream = stream
        self._running: Generator[str] | None = None

    @property
    def answer(self) -> CitedAnswer:
        """The whole answer with its citations; raises ToolkitError before the end of the stream."""
        return self._stream.answer

    def __iter__(self) -> Iterator[str]:
        self._running = portal.iterate(aiter(self._stream))
        with closing(self._running) as pieces:
            yield from pieces

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._running is not None:
            self._running.close()
