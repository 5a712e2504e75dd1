"""Answers from an index: retrieve, ask, and tie each claim to the place it came from."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from antiphon.toolkit.calls.options import EmbeddingOptions
from antiphon.toolkit.chat.chat import AsyncChat, Chat
from antiphon.toolkit.chat.chat_state import ChatOptions
from antiphon.toolkit.chat.reply import Event, Reply, TextDelta
from antiphon.toolkit.clients import Connection
from antiphon.toolkit.errors import OutputError, ToolkitError
from antiphon.toolkit.index.documents import Hit
from antiphon.toolkit.usage import Usage
from antiphon.wire.token_estimate import CHARACTERS_PER_TOKEN

INSTRUCTIONS = (
    "Answer the question from the numbered sources alone. After each statement name its source in brackets, like [1]. "
    "If the sources do not hold the answer, say that they do not."
)
_REWRITE = (
    "Do not answer yet. Write the following question as one that can be understood without this conversation. "
    "Write the question alone."
)
LONGER = "raise max_completion_tokens"
"""The step to take when a cited answer was cut: what would continue it would cite nothing."""
MARK = re.compile(r"\[(\d+(?:\s*,\s*\d+)*)\]")


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
    reply: Reply[Any] = field(repr=False)
    saving: Saving | None

    def __str__(self) -> str:
        return self.text

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


@dataclass(frozen=True, slots=True)
class Answerer:
    """Answers from sources: each question in a new chat with ``options``, or as a turn of ``chat``.

    ``search`` finds sources; ``num_characters`` tells the length of whole documents.
    """

    connection: Connection
    search: Callable[[str], Awaitable[list[Hit]]]
    num_characters: Callable[[Iterable[str]], int]
    options: ChatOptions
    chat: Chat | AsyncChat | None = None

    def __post_init__(self) -> None:
        if self.chat is not None and (given := self.options.keys() - EmbeddingOptions.__optional_keys__):
            raise ToolkitError(
                f"The chat has its own options, and {sorted(given)!r} were given", hint="give one of them"
            )

    async def answer(self, question: str) -> CitedAnswer:
        """Return the whole answer. Raises OutputError without any source, and what a chat raises."""
        last: CitedAnswer | None = None
        async with aclosing(self.parts(question, stream=False)) as parts:
            async for part in parts:
                last = part if isinstance(part, CitedAnswer) else last
        assert last is not None
        return last

    async def parts(self, question: str, *, stream: bool) -> AsyncGenerator[str | CitedAnswer]:
        """Yield the text as it comes, if it is to ``stream``, then the answer; raises what ``answer`` raises."""
        if self.chat is None:
            sources, chat = await self._sources(question), self._new_chat()
            asked = _question(question, sources)
        else:
            chat = self.chat
            sources = await self._sources(await _standing_alone(chat, question))
            asked = f"{INSTRUCTIONS}\n\n{_question(question, sources)}"
        turn: AsyncGenerator[Event | Reply[None]] = chat.events(asked, stream=stream)
        async with aclosing(turn) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    yield event.text
                elif isinstance(event, Reply):
                    yield self._cited(event, sources)

    def _new_chat(self) -> AsyncChat:
        asked: ChatOptions = {**self.options, "prefer": {"temperature": 0.0, **self.options.get("prefer", {})}}
        return AsyncChat(INSTRUCTIONS, client=self.connection.client, **asked)

    async def _sources(self, question: str) -> list[Hit]:
        if sources := await self.search(question):
            return sources
        raise OutputError(
            "Nothing in the index fits the question", hint="look at index.statistics(), or loosen the filter"
        )

    def _cited(self, reply: Reply[Any], sources: Sequence[Hit]) -> CitedAnswer:
        return _tie(reply, sources, self.num_characters)


async def _standing_alone(chat: Chat | AsyncChat, question: str) -> str:
    """Return a question of a conversation such that it can be searched for without what was said before."""
    if not chat.turns:
        return question
    text = question
    # In a copy: what is asked here does not belong to the conversation.
    turn: AsyncGenerator[Event | Reply[None]] = chat.fork().events(f"{_REWRITE}\n\n{question}")
    async with aclosing(turn) as events:
        async for event in events:
            if isinstance(event, Reply):
                text = event.text.strip() or question
    return text


def _tie(reply: Reply[Any], sources: Sequence[Hit], num_characters: Callable[[Iterable[str]], int]) -> CitedAnswer:
    """Tie the marks in the text of ``reply`` to ``sources``."""
    numbers = cited_numbers(reply.text)
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


def cited_numbers(text: str) -> list[int]:
    """Return the numbers that the text cites, each once, in the order of their first mark."""
    marks = (int(number) for group in MARK.findall(text) for number in group.split(","))
    return list(dict.fromkeys(marks))


def _saving(num_characters: Callable[[Iterable[str]], int], sources: Sequence[Hit], usage: Usage) -> Saving:
    characters = num_characters({hit.document for hit in sources})
    return Saving(usage.prompt_tokens, round(characters / CHARACTERS_PER_TOKEN))
