"""Answers from an index: retrieve, ask, and tie each claim to the place it came from."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from antiphon.toolkit.chat.chat import AsyncChat
from antiphon.toolkit.chat.chat_state import ChatOptions
from antiphon.toolkit.chat.reply import Reply
from antiphon.toolkit.clients import Connection
from antiphon.toolkit.errors import OutputError
from antiphon.toolkit.index.documents import Hit
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
    ``reply`` is the chat's: its records, log probabilities, reasoning and completion.
    """

    text: str
    sources: tuple[Hit, ...]
    citations: tuple[Citation, ...]
    unknown_marks: tuple[int, ...]
    reply: Reply[None] = field(repr=False)
    saving: Saving | None

    @property
    def finish_reason(self) -> str | None:
        """Why the answer ended; "length" means that it was cut."""
        return self.reply.finish_reason

    @property
    def usage(self) -> Usage | None:
        return self.reply.usage

    @property
    def cost(self) -> Decimal | None:
        """Dollars, or None if the price is unknown."""
        return self.reply.cost


async def answer_from(
    sources: Sequence[Hit],
    question: str,
    *,
    connection: Connection,
    num_characters: Callable[[Iterable[str]], int],
    options: ChatOptions,
) -> CitedAnswer:
    """Answer ``question`` from ``sources``; ``num_characters`` tells the length of whole documents.

    Raises OutputError without any source, and what a chat raises.
    """
    if not sources:
        raise OutputError(
            "Nothing in the index fits the question", hint="look at index.statistics(), or loosen the filter"
        )
    asked: ChatOptions = {**options, "prefer": {"temperature": 0.0, **options.get("prefer", {})}}
    chat = AsyncChat(INSTRUCTIONS, client=connection.client, **asked)
    return cited(await chat.send(_question(question, sources)), sources, num_characters)


def cited(reply: Reply[None], sources: Sequence[Hit], num_characters: Callable[[Iterable[str]], int]) -> CitedAnswer:
    """Tie the marks in the text of ``reply`` to ``sources``."""
    numbers = _numbers(reply.text)
    return CitedAnswer(
        text=reply.text,
        sources=tuple(sources),
        citations=tuple(Citation(n, sources[n - 1]) for n in numbers if 1 <= n <= len(sources)),
        unknown_marks=tuple(n for n in numbers if not 1 <= n <= len(sources)),
        reply=reply,
        saving=None if reply.usage is None else _saving(num_characters, sources, reply.usage),
    )


def _question(question: str, sources: Sequence[Hit]) -> str:
    listed = "\n\n".join(f"[{n}] {hit.title or hit.document}\n{hit.text}" for n, hit in enumerate(sources, 1))
    return f"Sources:\n\n{listed}\n\nQuestion: {question}"


def _numbers(text: str) -> list[int]:
    """Return the numbers that the text cites, each once, in the order of their first mark."""
    marks = (int(number) for group in _MARK.findall(text) for number in group.split(","))
    return list(dict.fromkeys(marks))


def _saving(num_characters: Callable[[Iterable[str]], int], sources: Sequence[Hit], usage: Usage) -> Saving:
    characters = num_characters({hit.document for hit in sources})
    return Saving(usage.prompt_tokens, round(characters / CHARACTERS_PER_TOKEN))
