"""A cited answer that is read while the model writes it.

One that was cut at the token limit warns at the end of the text.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, closing

from antiphon.toolkit.chat.reply import warned
from antiphon.toolkit.chat.result_stream import AsyncPartStream, PartStream
from antiphon.toolkit.index.answers import LONGER, CitedAnswer


class AsyncAnswerStream(AsyncPartStream[str, CitedAnswer]):
    """Pieces of the text, then ``answer``. Leaving early closes the connection (at once with ``async with``)."""

    def __init__(self, parts: AsyncGenerator[str | CitedAnswer]) -> None:
        super().__init__(parts, CitedAnswer)

    @property
    def answer(self) -> CitedAnswer:
        """The whole answer with its citations; raises ToolkitError before the end of the stream."""
        return self.whole("answer")

    async def __aiter__(self) -> AsyncIterator[str]:
        async with aclosing(self.items()) as pieces:
            async for piece in pieces:
                yield piece
        warned(self.answer.reply, step=LONGER)


class AnswerStream(PartStream[str, CitedAnswer]):
    """Pieces of the text, then ``answer``. Leaving early closes the connection (at once with ``with``)."""

    @property
    def answer(self) -> CitedAnswer:
        """The whole answer with its citations; raises ToolkitError before the end of the stream."""
        return self._stream.whole("answer")

    def __iter__(self) -> Iterator[str]:
        with closing(self.items()) as pieces:
            yield from pieces
        warned(self.answer.reply, step=LONGER)
