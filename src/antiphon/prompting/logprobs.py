"""Keeps each token's log-probabilities with its text, while a parser holds text back or drops it."""

from collections import deque
from collections.abc import Sequence

from antiphon.protocol.events import TokenLogprob


class LogprobQueue:
    """A queue of tokens for a queue of text; both are consumed from the front, measured in UTF-8 bytes."""

    def __init__(self) -> None:
        self._waiting: deque[TokenLogprob] = deque()
        self._taken = 0

    def push(self, tokens: Sequence[TokenLogprob]) -> None:
        """Append the tokens of the text that comes next."""
        self._waiting.extend(tokens)

    def take(self, text: str) -> tuple[TokenLogprob, ...]:
        """Remove and return the tokens that end within ``text``, the next part of the line."""
        if not self._waiting:
            return ()
        self._taken += len(text.encode())
        tokens: list[TokenLogprob] = []
        while self._waiting and len(self._waiting[0].bytes) <= self._taken:
            self._taken -= len(self._waiting[0].bytes)
            tokens.append(self._waiting.popleft())
        return tuple(tokens)

    def rest(self) -> tuple[TokenLogprob, ...]:
        """Remove and return the remaining tokens, such as a cut-off character's; end tokens, which have no text, are left out."""
        tokens = tuple(token for token in self._waiting if token.bytes)
        self._waiting.clear()
        self._taken = 0
        return tokens
