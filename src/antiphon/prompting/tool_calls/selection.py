"""Selects the tool to call, or none, for models that were not trained to call tools.

Such a model chooses between text and a call at random. The similarity between the user's words and a tool's description is
a better guide, above all as an embedding model measures it. The measures, their weights and thresholds were chosen on the
Berkeley Function-Calling Leaderboard; `docs/tools-and-structure.md` lists what was tried, with the figures.
"""

import math
import re
from collections.abc import Sequence
from typing import Any, cast

import msgspec

from antiphon.protocol.chat import ChatRequest, Tool

MAX_CHARS = 1000
"""Characters of the message, and of each description, that are embedded: the embedding model reads no more at once."""

NEAR = 0.42
"""The least score at which a tool is called. The score is the mean cosine and what ``_evidence`` adds to it."""

SHARED = 0.35
"""The least score where there is no embedding model. The score is the share of common words."""

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
"""Words in tools' names that do not distinguish one tool from another."""


class ToolQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """Which of ``tools`` to call, if any; answered by ``ToolSelector.choose``.

    ``texts`` are to be embedded: the user's words, then two texts for each tool. They are empty where there is nothing to
    compare. With ``required`` one tool must be called.
    """

    texts: tuple[str, ...]
    tools: tuple[Tool, ...]
    required: bool


class ToolSelector:
    """Selects tools before a prompt is planned. It has no state."""

    def question(self, request: ChatRequest) -> ToolQuestion | None:
        """Return what must be answered before the request can be planned, None if its tools are settled."""
        tools = offered_tools(request)
        required = request.tool_choice.mode == "required"
        if not tools or (required and len(tools) == 1):
            return None
        said = _last_words(request, required=required)[:MAX_CHARS]
        described = (text[:MAX_CHARS] for tool in tools for text in (in_short(tool), in_full(tool)))
        return ToolQuestion(texts=(said, *described) if said else (), tools=tools, required=required)

    def choose(self, question: ToolQuestion, vectors: Sequence[Sequence[float]] | None) -> tuple[Tool, ...]:
        """Return the nearest tool, or none if none is near enough and none is required.

        ``vectors`` are those of the question's texts, of one length; None where there is no embedding model. Without texts
        all tools stay open if one is required.
        """
        if not question.texts:
            return question.tools if question.required else ()
        said = question.texts[0]
        if vectors is None:
            scores, enough = [_shared_words(said, tool) + _lack(said, tool) for tool in question.tools], SHARED
        else:
            near = [_cosine(vectors[0], vector) for vector in vectors[1:]]
            pairs = zip(question.tools, near[::2], near[1::2], strict=True)
            scores, enough = [(short + full) / 2 + _evidence(said, tool) for tool, short, full in pairs], NEAR
        best = max(range(len(scores)), key=scores.__getitem__)
        is_wanted = question.required or scores[best] >= enough
        return (question.tools[best],) if is_wanted else ()


def offered_tools(request: ChatRequest) -> tuple[Tool, ...]:
    """Return the tools that the answer may call: none with the choice ``none``, the named ones where some are named."""
    choice = request.tool_choice
    if choice.mode == "none":
        return ()
    return tuple(tool for tool in request.tools if not choice.names or tool.name in choice.names)


def _last_words(request: ChatRequest, *, required: bool) -> str:
    """Return the last thing the user said; nothing where a tool's result is to be answered in text."""
    if not required and request.messages[-1].role in {"tool", "function"}:
        return ""
    return next((message.content or "" for message in reversed(request.messages) if message.role == "user"), "")


def in_short(tool: Tool) -> str:
    """Return a tool's name as words, and its description."""
    name = _in_words(tool.name)
    return f"{name}: {tool.description}" if tool.description else name


def in_full(tool: Tool) -> str:
    """Return the same with its parameters."""
    described = [f"{_in_words(name)}: {value.get('description') or ''}" for name, value in _parameters(tool).items()]
    return " ".join([in_short(tool), *described])


def _evidence(said: str, tool: Tool) -> float:
    """Return what to add to the similarity: distinctive words of the tool's name that were said, numbers that it needs."""
    distinctive = " ".join(word for word in _in_words(tool.name).split() if word.lower() not in _GENERIC)
    return 0.15 * _overlap(said, distinctive) + _lack(said, tool)


def _shared_words(said: str, tool: Tool) -> float:
    return _overlap(said, in_short(tool)) + _overlap(said, _in_words(tool.name))


def _lack(said: str, tool: Tool) -> float:
    """Return a penalty if the tool requires a number and the user said none."""
    required = cast("list[str]", (tool.parameters or {}).get("required") or [])
    needed = [_parameters(tool).get(name, {}).get("type") in {"integer", "number"} for name in required]
    return -0.25 if any(needed) and not _NUMBERS.search(said) else 0.0


def _parameters(tool: Tool) -> dict[str, dict[str, Any]]:
    properties = cast("dict[str, Any]", (tool.parameters or {}).get("properties") or {})
    return {name: cast("dict[str, Any]", value) for name, value in properties.items() if isinstance(value, dict)}


def _in_words(name: str) -> str:
    return " ".join(part for part in _HUMPS.split(name) if part)


def _overlap(said: str, of_tool: str) -> float:
    """Return the share of a tool's words that were said; words with the same first letters count as the same."""
    wanted = _stems(of_tool)
    return len(wanted & _stems(said)) / len(wanted) if wanted else 0.0


def _stems(text: str) -> set[str]:
    return {word.lower()[:_STEM] for word in _WORDS.findall(text)}


def _cosine(one: Sequence[float], other: Sequence[float]) -> float:
    size = math.sqrt(sum(x * x for x in one) * sum(x * x for x in other))
    return sum(x * y for x, y in zip(one, other, strict=True)) / size if size else 0.0
