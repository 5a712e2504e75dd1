"""Whether to call, and what, for models whose training knows no tools.

Such a model, asked to choose between text and a call, chooses by accident. How near the user's words are to what a
tool says of itself is a better guide, above all to an embedding model. The measures, their weights and thresholds
were chosen on the Berkeley Function-Calling Leaderboard; what was tried, and the figures, stand in
`docs/tools-and-structure.md`.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar, cast

from antiphon.protocol.chat import Tool

T = TypeVar("T")

MAX_CHARS = 1000
"""Of the message and of each description, what the embedding model is asked about: it reads no more at once."""

NEAR = 0.42
"""From here on a tool is called, where nearness is the mean cosine and what ``_evidence`` adds to it."""

SHARED = 0.35
"""The same where there is no embedding model, and nearness is the share of common words."""

_HUMPS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|[^a-zA-Z0-9]+")
_WORDS = re.compile(r"[^\W\d_]{3,}")
_NUMBERS = re.compile(
    r"\d|\b(?:one|two|three|four|five|six|seven|eight|nine|ten|dozen|hundred|thousand)\b", re.IGNORECASE
)
_STEM = 5
_GENERIC = frozenset(
    _WORDS.findall(
        "and calculate check compute create current currently data details determine fetch find for from generate get "
        "given info information list look make retrieve return returns search set show the with"
    )
)
"""Words of tools' names that tell no tool from another."""


class Decision(Generic[T]):
    """A question to settle before a plan is made: to call or not, and which of several tools.

    ``texts`` are to be embedded: what the user says, then two for each tool. ``resolve`` takes their vectors, or None
    where there is no embedding model.
    """

    def __init__(
        self, *, message: str, tools: tuple[Tool, ...], required: bool, resolution: Callable[[tuple[Tool, ...]], T]
    ) -> None:
        said = message[:MAX_CHARS]
        self.texts: tuple[str, ...] = ()
        if said:
            self.texts = (said, *(text[:MAX_CHARS] for tool in tools for text in (in_short(tool), in_full(tool))))
        self._tools = tools
        self._required = required
        self._resolution = resolution

    def resolve(self, vectors: Sequence[Sequence[float]] | None) -> T:
        """Return the plan: calls of the nearest tool, or text if none is near enough and none is required."""
        if not self.texts:
            return self._resolution(self._tools if self._required else ())
        said = self.texts[0]
        if vectors is None:
            scores, enough = [_shared_words(said, tool) + _lack(said, tool) for tool in self._tools], SHARED
        else:
            near = [_cosine(vectors[0], vector) for vector in vectors[1:]]
            pairs = zip(self._tools, near[::2], near[1::2], strict=True)
            scores, enough = [(short + full) / 2 + _evidence(said, tool) for tool, short, full in pairs], NEAR
        best = max(range(len(scores)), key=scores.__getitem__)
        is_wanted = self._required or scores[best] >= enough
        return self._resolution((self._tools[best],) if is_wanted else ())


def in_short(tool: Tool) -> str:
    """Return a tool's name as words, and its description."""
    name = _in_words(tool.name)
    return f"{name}: {tool.description}" if tool.description else name


def in_full(tool: Tool) -> str:
    """Return the same with its parameters."""
    described = [f"{_in_words(name)}: {value.get('description') or ''}" for name, value in _parameters(tool).items()]
    return " ".join([in_short(tool), *described])


def _evidence(said: str, tool: Tool) -> float:
    """Return what speaks for a call beside nearness: telling words of its name that were said, numbers that it needs."""
    telling = " ".join(word for word in _in_words(tool.name).split() if word.lower() not in _GENERIC)
    return 0.15 * _overlap(said, telling) + _lack(said, tool)


def _shared_words(said: str, tool: Tool) -> float:
    return _overlap(said, in_short(tool)) + _overlap(said, _in_words(tool.name))


def _lack(said: str, tool: Tool) -> float:
    """Return a malus if the tool must be given numbers and none was said."""
    required = cast("list[str]", (tool.parameters or {}).get("required") or [])
    needed = [_parameters(tool).get(name, {}).get("type") in {"integer", "number"} for name in required]
    return -0.25 if any(needed) and not _NUMBERS.search(said) else 0.0


def _parameters(tool: Tool) -> dict[str, dict[str, Any]]:
    properties = cast("dict[str, Any]", (tool.parameters or {}).get("properties") or {})
    return {name: cast("dict[str, Any]", value) for name, value in properties.items() if isinstance(value, dict)}


def _in_words(name: str) -> str:
    return " ".join(part for part in _HUMPS.split(name) if part)


def _overlap(said: str, of_tool: str) -> float:
    """Return the share of a tool's words that were said, by their beginnings."""
    wanted = _stems(of_tool)
    return len(wanted & _stems(said)) / len(wanted) if wanted else 0.0


def _stems(text: str) -> set[str]:
    return {word.lower()[:_STEM] for word in _WORDS.findall(text)}


def _cosine(one: Sequence[float], other: Sequence[float]) -> float:
    size = math.sqrt(sum(x * x for x in one) * sum(x * x for x in other))
    return sum(x * y for x, y in zip(one, other, strict=True)) / size if size else 0.0
