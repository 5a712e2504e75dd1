"""Results of tools cut until the prompt fits: what a call was paid for is not lost because its result is long."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from antiphon.toolkit.chat.history import Message
from antiphon.toolkit.tokens.text_estimate import estimate_text
from antiphon.toolkit.tools.large_results import cut_text

_MIN_TOKENS = 64
_ROOM = 0.9
"""Of the tokens allowed; the rest is for another call and its result."""
_NOTE_TOKENS = 24


async def fit_results(
    messages: Sequence[Message], *, budget: int, count: Callable[[Sequence[Message]], Awaitable[int]]
) -> list[Message]:
    """Return the turn's ``messages`` with results of tools cut, longest first, so that the turn has ``budget`` tokens at most.

    ``count`` counts the prompt that is left when all turns that may be left out are. Messages that cannot be made to fit
    are returned as far as they could be cut.
    """
    room = int(budget * _ROOM)
    fitted = list(messages)
    places = [place for place, message in enumerate(fitted) if message.get("role") == "tool"]
    for place in places:
        # None can have more, and counting megabytes exactly is not worth it.
        _cut(fitted, place, room)
    while places and (excess := await count(fitted) - room) > 0:
        longest = max(places, key=lambda place: estimate_text(fitted[place]["content"]))
        tokens = estimate_text(fitted[longest]["content"])
        if tokens <= _MIN_TOKENS + _NOTE_TOKENS:
            break
        # At least a tenth less each time, since the count and the estimate may differ.
        _cut(fitted, longest, max(_MIN_TOKENS, min(tokens - excess, int(tokens * 0.9)) - _NOTE_TOKENS))
    return fitted


def _cut(messages: list[Message], place: int, max_tokens: int) -> None:
    message = messages[place]
    messages[place] = {**message, "content": cut_text(message["content"], max_tokens)}
