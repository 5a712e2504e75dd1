"""A cited answer that is read while the model writes it."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from antiphon.toolkit.chat.result_stream import AsyncPartStream, PartStream
from antiphon.toolkit.index.answers import CitedAnswer


class AsyncAnswerStream(AsyncPartStream[str, CitedAnswer]):
    """Pieces of the text, then ``answer``. Leaving early closes the connection (at once with ``async with``)."""

    def __init__(self, parts: AsyncGenerator[str | CitedAnswer]) -> None:
        super().__init__(parts, CitedAnswer)

    @property
    def answer(self) -> CitedAnswer:
        """The whole answer with its citations; raises ToolkitError before the end of the stream."""
        return self.whole("answer")


class AnswerStream(PartStream[str, CitedAnswer]):
    """Pieces of the text, then ``answer``. Leaving early closes the connection (at once with ``with``)."""

    @property
    def answer(self) -> CitedAnswer:
        """The whole answer with its citations; raises ToolkitError before the end of the stream."""
        return self._stream.whole("answer")
