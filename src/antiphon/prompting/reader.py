"""Reads generated text back, piece by piece as it comes, as the events of one choice."""

from collections.abc import Sequence
from typing import Literal, Protocol

from antiphon.prompting.logprobs import LogprobQueue
from antiphon.protocol.events import ChoiceFinished, Event, TextDelta, TokenLogprob


class Reader(Protocol):
    """Turns the text of one choice into events, incrementally; fed in any pieces it yields the same whole."""

    def feed(self, text: str, logprobs: Sequence[TokenLogprob] = ()) -> list[Event]:
        """Take more text, whole characters only, and the tokens that it completes."""
        ...

    def finish(self, reason: Literal["stop", "length"]) -> list[Event]:
        """End the choice; the last event is ``ChoiceFinished``. Nothing may be fed afterwards."""
        ...


class PlainReader:
    """All text is the answer."""

    def __init__(self, index: int) -> None:
        self._index = index
        self._logprobs = LogprobQueue()

    def feed(self, text: str, logprobs: Sequence[TokenLogprob] = ()) -> list[Event]:
        self._logprobs.push(logprobs)
        return [TextDelta(self._index, text, self._logprobs.take(text))] if text else []

    def finish(self, reason: Literal["stop", "length"]) -> list[Event]:
        rest = self._logprobs.rest()
        return [*([TextDelta(self._index, "", rest)] if rest else []), ChoiceFinished(self._index, reason)]
