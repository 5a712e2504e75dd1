"""A long text summed up by a model whose context may not hold it: cut, sum up each part, sum up the summaries."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Unpack

from openai import OpenAI

from antiphon.search.chunking import Chunking
from antiphon.toolkit._sync import portal
from antiphon.toolkit.calls.model_families import family_of
from antiphon.toolkit.calls.options import require_options
from antiphon.toolkit.calls.under_way import UnderWay
from antiphon.toolkit.chat.chat import AsyncChat
from antiphon.toolkit.chat.chat_state import ChatOptions
from antiphon.toolkit.clients import DEFAULT_MODEL, Client, connect, portal_client
from antiphon.toolkit.errors import HistoryError
from antiphon.toolkit.pacing.task_group import all_or_none
from antiphon.toolkit.record import CallRecord, total_cost, total_usage
from antiphon.toolkit.structured.extract import defaults
from antiphon.toolkit.tokens.context import context_tokens
from antiphon.toolkit.usage import Usage

OnProgress = Callable[[int, int], None]

# For an endpoint that does not tell how much its model holds: every current model holds this much.
_ASSUMED_CONTEXT = 8_192
# Parts are cut by OpenAI's tokenizer; another one may make this much more of the same text.
_TOKENIZERS_DIFFER = 0.6
# Tokens around a part: instructions, and what a template puts around messages.
_AROUND = 200
_TOKENS_PER_WORD = 4
# More is worse than less: a part larger than this is summed up from its beginning alone by many models.
_LARGEST_PART = 50_000


@dataclass(frozen=True, slots=True)
class Summary:
    """A summary. ``num_parts`` were summed up one by one, in ``num_levels`` steps; ``records`` has each call."""

    text: str
    num_parts: int
    num_levels: int
    records: tuple[CallRecord, ...]

    def __str__(self) -> str:
        return self.text

    @property
    def is_truncated(self) -> bool:
        """Whether a summary, of a part or the whole, was cut at the token limit."""
        return any(record.finish_reason == "length" for record in self.records)

    @property
    def usage(self) -> Usage | None:
        return total_usage(self.records)

    @property
    def cost(self) -> Decimal | None:
        """Dollars, or None if a price is unknown."""
        return total_cost(self.records)


async def asummarise(
    text: str,
    *,
    words: int = 200,
    about: str = "",
    client: Client | None = None,
    concurrency: int = 4,
    on_progress: OnProgress | None = None,
    **options: Unpack[ChatOptions],
) -> Summary:
    """Do what ``summarise`` does, from asynchronous code."""
    require_options(options, ChatOptions, "A summary")
    if words < 1 or concurrency < 1:
        raise ValueError(f"words and concurrency must be >= 1, got {words!r} and {concurrency!r}")
    async with connect(client) as connection:
        model = options.get("model", DEFAULT_MODEL)
        context = options.get("context_tokens") or await context_tokens(connection, model) or _ASSUMED_CONTEXT
        room = int((context - words * _TOKENS_PER_WORD - _AROUND) * _TOKENIZERS_DIFFER)
        if room < words * _TOKENS_PER_WORD * 2:
            raise HistoryError(
                f"A context of {context} tokens cannot hold two summaries of {words} words and a third",
                hint="ask for fewer words, or use a model with a longer context",
            )
        # What a model thinks before it answers counts towards the limit, and nobody knows how much that is.
        reasons = family_of(model, connection.endpoint).reasons
        limit: ChatOptions = {} if reasons else {"max_completion_tokens": words * _TOKENS_PER_WORD}
        asked: ChatOptions = {**limit, **defaults(options), "context_tokens": context}
        work = _Work(partial(_ask, asked, connection.client, words, about), concurrency, on_progress)
        return await work.summary(text, Chunking(min(room, _LARGEST_PART), 0))


def summarise(
    text: str,
    *,
    words: int = 200,
    about: str = "",
    client: OpenAI | None = None,
    concurrency: int = 4,
    on_progress: OnProgress | None = None,
    **options: Unpack[ChatOptions],
) -> Summary:
    """Return a summary of ``text`` in about ``words`` words, however long the text is.

    A text that the model's context cannot hold is cut into parts, each part is summed up, and the summaries are summed up
    in turn. ``about`` says what matters. ``options`` are those of a chat; a budget bounds all calls together, and the
    temperature is 0 unless given, where the model takes one. ``on_progress`` gets the parts done, and how many there are.
    Raises HistoryError for a context that cannot hold two summaries.
    """
    made = asummarise(
        text,
        words=words,
        about=about,
        client=portal_client(client),
        concurrency=concurrency,
        on_progress=on_progress,
        **options,
    )
    return portal.call(made)


async def _ask(options: ChatOptions, client: Client, words: int, about: str, text: str) -> tuple[str, CallRecord]:
    matter = f" What matters: {about}." if about else ""
    system = f"Summarise the text that the user sends in at most {words} words. Use only what the text says.{matter}"
    stream = AsyncChat(system, client=client, **options).stream(text)
    async for _ in stream.events():
        pass
    return stream.reply.text, stream.reply.records[-1]


class _Work:
    """The calls of one summary; ``ask`` sums up a text that fits."""

    def __init__(
        self, ask: Callable[[str], Awaitable[tuple[str, CallRecord]]], concurrency: int, on_progress: OnProgress | None
    ) -> None:
        self._ask = ask
        self._places = asyncio.Semaphore(concurrency)
        self._under_way = UnderWay()
        self._on_progress = on_progress
        self._records: list[CallRecord] = []
        self._num_parts = 0
        self._num_done = 0

    async def summary(self, text: str, chunking: Chunking) -> Summary:
        parts = await asyncio.to_thread(_cut, text, chunking)
        num_parts, num_levels = len(parts), 1
        while len(parts) > 1:
            made = await self._each(parts)
            joined = await asyncio.to_thread(_cut, "\n\n".join(made), chunking)
            if len(joined) >= len(parts):
                raise HistoryError(
                    f"The summaries of {len(parts)} parts together are as long as the parts",
                    hint="ask for fewer words, or use another model",
                )
            parts, num_levels = joined, num_levels + 1
        (made,) = await self._each(parts)
        return Summary(made, num_parts, num_levels, tuple(self._records))

    async def _each(self, parts: Sequence[str]) -> list[str]:
        self._num_parts += len(parts)
        async with all_or_none(self._one(part) for part in parts) as running:
            made = [await task for task in running]
        self._records.extend(record for _, record in made)
        return [text for text, _ in made]

    async def _one(self, part: str) -> tuple[str, CallRecord]:
        async with self._places:
            made = await self._under_way.run(partial(self._ask, part))
        self._num_done += 1
        if self._on_progress is not None:
            self._on_progress(self._num_done, self._num_parts)
        return made


def _cut(text: str, chunking: Chunking) -> list[str]:
    return [chunk.text for chunk in chunking.chunks(text)] or [text]
