"""Whether to call, and what, for models whose training knows no tools.

Such a model, asked to choose between text and a call, chooses by accident. How near the user's words are to what a
tool says of itself is a better guide: the embedding model answers that, and where there is none, shared words do. The
measure and its threshold were chosen on the Berkeley Function-Calling Leaderboard; the figures stand in
`docs/tools-and-structure.md`.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from antiphon.protocol.chat import Tool

T = TypeVar("T")

MAX_CHARS = 1000
NEAR = 0.40
SHARED = 0.15

_HUMPS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|[^a-zA-Z0-9]+")
_WORDS = re.compile(r"\w+")


def tool_in_words(tool: Tool) -> str:
    """Return what an embedding model can make of a tool: its name as words, and its description."""
    name = " ".join(part for part in _HUMPS.split(tool.name) if part)
    return f"{name}: {tool.description}"[:MAX_CHARS] if tool.description else name


def similarities(message: Sequence[float], tools: Sequence[Sequence[float]]) -> list[float]:
    """Return the cosine similarity of a message's vector to each tool's."""
    return [_cosine(message, tool) for tool in tools]


def shared_words(message: str, tools: Sequence[str]) -> list[float]:
    """Return how much of a message's vocabulary each tool shares, from 0 to 1."""
    words = _stems(message)
    return [_cosine_of_counts(words, _stems(tool)) for tool in tools]


def _cosine(a: Sequence[float], b: Sequence[float]) -> float:
    size = math.sqrt(sum(x * x for x in a) * sum(x * x for x in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / size if size else 0.0


def _stems(text: str) -> Counter[str]:
    return Counter(word.lower()[:5] for word in _WORDS.findall(text) if len(word) > 2)  # noqa: PLR2004 - small words say little


def _cosine_of_counts(a: Counter[str], b: Counter[str]) -> float:
    size = math.sqrt(sum(n * n for n in a.values()) * sum(n * n for n in b.values()))
    return sum(n * b[word] for word, n in a.items()) / size if size else 0.0


class Decision(Generic[T]):
    """A question to settle before a plan is made: to call or not, and which of several tools.

    ``texts`` are to be embedded, the first for what the user says, the others for the tools; ``resolve`` takes the
    vectors, or None where there is no embedding model.
    """

    def __init__(
        self, *, message: str, tools: tuple[Tool, ...], required: bool, resolution: Callable[[tuple[Tool, ...]], T]
    ) -> None:
        self.texts: tuple[str, ...] = (message[:MAX_CHARS], *(tool_in_words(tool) for tool in tools)) if message else ()
        self._tools = tools
        self._required = required
        self._resolution = resolution

    def resolve(self, vectors: Sequence[Sequence[float]] | None) -> T:
        """Return the plan: calls of the nearest tool, or text if none is near enough and none is required."""
        if not self.texts:
            return self._resolution(self._tools if self._required else ())
        if vectors is not None:
            scores, enough = similarities(vectors[0], vectors[1:]), NEAR
        else:
            scores, enough = shared_words(self.texts[0], self.texts[1:]), SHARED
        best = max(range(len(scores)), key=scores.__getitem__)
        is_wanted = self._required or scores[best] >= enough
        return self._resolution((self._tools[best],) if is_wanted else ())
