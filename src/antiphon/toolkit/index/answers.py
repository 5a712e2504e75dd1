"""Answers from an index: retrieve, ask, and tie each claim to the place it came from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from antiphon.toolkit.calls.dialects import require_completion
from antiphon.toolkit.clients import DEFAULT_MODEL
from antiphon.toolkit.costs.prices import PriceTable
from antiphon.toolkit.errors import OutputError
from antiphon.toolkit.index.documents import Hit
from antiphon.toolkit.index.filters import Where
from antiphon.toolkit.index.index import AsyncIndex, Mode
from antiphon.toolkit.usage import Usage
from antiphon.wire.token_estimate import CHARACTERS_PER_TOKEN

INSTRUCTIONS = (
    "Answer the question from the numbered sources alone. After each statement name its source in brackets, like [1]. "
    "If the sources do not hold the answer, say that they do not."
)
_MARK = re.compile(r"\[(\d+(?:\s*,\s*\d+)*)\]")


@dataclass(frozen=True, slots=True)
class Citation:
    """A mark ``[number]`` in an answer, and the chunk it names: ``hit.document`` from ``hit.start`` to ``hit.end``."""

    number: int
    hit: Hit


@dataclass(frozen=True, slots=True)
class Saving:
    """Prompt tokens spent, with an estimate of what the whole documents would have taken in their place."""

    prompt_tokens: int
    whole_documents_tokens_estimate: int

    @property
    def share(self) -> float:
        """The part saved, from 0 to 1; negative when the documents are shorter than the prompt."""
        return 1 - self.prompt_tokens / max(1, self.whole_documents_tokens_estimate)


@dataclass(frozen=True, slots=True)
class CitedAnswer:
    """An answer and what it rests on.

    ``sources`` are all chunks the model was given, numbered from 1; ``citations`` those its text names, in order;
    ``unknown_marks`` numbers it made up. A model may cite nothing: then ``citations`` is empty, and the text unproven.
    ``finish_reason`` "length" means that it was cut.
    """

    text: str
    sources: tuple[Hit, ...]
    citations: tuple[Citation, ...]
    unknown_marks: tuple[int, ...]
    finish_reason: str
    usage: Usage | None
    cost: Decimal | None
    saving: Saving | None


async def answer(
    index: AsyncIndex,
    question: str,
    *,
    model: str = DEFAULT_MODEL,
    num_sources: int = 5,
    where: Where | None = None,
    mode: Mode = "hybrid",
    max_tokens: int | None = None,
    prices: PriceTable | None = None,
    **params: Any,
) -> CitedAnswer:
    """Answer ``question`` from the index. ``params`` go to the chat call as they are; the temperature is 0 unless given.

    Raises OutputError when nothing in the index can serve as a source.
    """
    sources = await index.search(question, limit=num_sources, where=where, mode=mode)
    if not sources:
        raise OutputError(
            "Nothing in the index fits the question", hint="look at index.statistics(), or loosen the filter"
        )
    request: dict[str, Any] = {"model": model, "messages": _messages(question, sources), "temperature": 0, **params}
    if max_tokens is not None:
        request["max_tokens"] = max_tokens
    reply = await index.connection.chat(request)
    completion = require_completion(reply.value)
    choice = completion.choices[0]
    text = choice.message.content or ""
    numbers = _numbers(text)
    usage = Usage.of(completion.usage)
    return CitedAnswer(
        text=text,
        sources=tuple(sources),
        citations=tuple(Citation(n, sources[n - 1]) for n in numbers if 1 <= n <= len(sources)),
        unknown_marks=tuple(n for n in numbers if not 1 <= n <= len(sources)),
        finish_reason=choice.finish_reason,
        usage=usage,
        cost=None if usage is None else (prices or PriceTable()).cost(usage, model, index.connection.endpoint),
        saving=None if usage is None else _saving(index, sources, usage),
    )


def _messages(question: str, sources: Sequence[Hit]) -> list[dict[str, str]]:
    listed = "\n\n".join(f"[{n}] {hit.title or hit.document}\n{hit.text}" for n, hit in enumerate(sources, 1))
    return [
        {"role": "system", "content": INSTRUCTIONS},
        {"role": "user", "content": f"Sources:\n\n{listed}\n\nQuestion: {question}"},
    ]


def _numbers(text: str) -> list[int]:
    """Return the numbers that the text cites, each once, in the order of their first mark."""
    marks = (int(number) for group in _MARK.findall(text) for number in group.split(","))
    return list(dict.fromkeys(marks))


def _saving(index: AsyncIndex, sources: Sequence[Hit], usage: Usage) -> Saving:
    characters = index.num_characters({hit.document for hit in sources})
    return Saving(usage.prompt_tokens, round(characters / CHARACTERS_PER_TOKEN))
