"""A typed value out of each of many texts: side by side, in order, within limits."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Generator, Iterable
from contextlib import aclosing, closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar, Unpack

from openai import APIStatusError, AuthenticationError, OpenAI, PermissionDeniedError

from antiphon.toolkit._sync import portal
from antiphon.toolkit.arguments import require_several
from antiphon.toolkit.calls.options import require_options
from antiphon.toolkit.calls.under_way import UnderWay
from antiphon.toolkit.chat.chat import AsyncChat
from antiphon.toolkit.chat.chat_state import ChatOptions
from antiphon.toolkit.chat.reply import Reply
from antiphon.toolkit.clients import Client, connect, portal_client
from antiphon.toolkit.errors import HistoryError, OutputError, RequestTooLargeError, RetryExhaustedError
from antiphon.toolkit.schemas.output_schema import describe_output
from antiphon.toolkit.structured.extract import INSTRUCTIONS, defaults

if TYPE_CHECKING:
    from typing_extensions import TypeForm

T = TypeVar("T")
OnProgress = Callable[[int], None]

# How many texts are read ahead for each that is under way: one that takes long must not stop the others.
_AHEAD = 4
# What is wrong with one text, and not with every other.
_OF_ONE = (OutputError, HistoryError, RequestTooLargeError, RetryExhaustedError, APIStatusError)
_OF_ALL = (AuthenticationError, PermissionDeniedError)


@dataclass(frozen=True, slots=True)
class Extracted(Generic[T]):
    """What became of one text: its ``reply``, or the ``error`` that there was instead."""

    text: str
    reply: Reply[T] | None
    error: Exception | None

    @property
    def parsed(self) -> T:
        """The value; raises ``error`` if there is none."""
        if self.reply is None:
            raise self.error or AssertionError
        return self.reply.parsed


async def aextract_each(
    output: TypeForm[T],
    texts: Iterable[str] | AsyncIterable[str],
    *,
    instructions: str = INSTRUCTIONS,
    client: Client | None = None,
    concurrency: int = 16,
    on_progress: OnProgress | None = None,
    **options: Unpack[ChatOptions],
) -> AsyncGenerator[Extracted[T]]:
    """Do what ``extract_each`` does, from asynchronous code."""
    require_options(options, ChatOptions, "An extraction")
    if concurrency < 1:
        raise ValueError(f"concurrency must be >= 1, got {concurrency!r}")
    require_several("texts", texts)
    describe_output(output)
    async with connect(client) as connection:

        async def ask(text: str) -> Reply[T]:
            return await AsyncChat(instructions, client=connection.client, **defaults(options)).parse(output, text)

        async with aclosing(_Each(ask, concurrency).items(texts)) as items:
            num_done = 0
            async for item in items:
                num_done += 1
                if on_progress is not None:
                    on_progress(num_done)
                yield item


class _Each(Generic[T]):
    """The texts under way, each asked about by ``ask``; ``fatal`` is what ends them all."""

    def __init__(self, ask: Callable[[str], Awaitable[Reply[T]]], concurrency: int) -> None:
        self._ask = ask
        self._places = asyncio.Semaphore(concurrency)
        self._num_ahead = concurrency * _AHEAD
        self._under_way = UnderWay()
        self._fatal: Exception | None = None

    async def items(self, texts: Iterable[str] | AsyncIterable[str]) -> AsyncGenerator[Extracted[T]]:
        pending: deque[asyncio.Task[Extracted[T] | None]] = deque()
        try:
            async for text in _iterate(texts):
                if self._fatal is not None:
                    break
                pending.append(asyncio.create_task(self._one(text)))
                if len(pending) == self._num_ahead and (item := await pending.popleft()) is not None:
                    yield item
            while pending:
                if (item := await pending.popleft()) is not None:
                    yield item
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
        if self._fatal is not None:
            raise self._fatal

    async def _one(self, text: str) -> Extracted[T] | None:
        """Return what becomes of a text, or None if all have failed meanwhile."""
        async with self._places:
            if self._fatal is not None:
                return None
            try:
                return Extracted(text, await self._under_way.run(partial(self._ask, text)), None)
            except Exception as error:  # noqa: BLE001 - raised when what is under way has ended
                if isinstance(error, _OF_ONE) and not isinstance(error, _OF_ALL):
                    return Extracted(text, None, error)
                self._fatal = self._fatal or error
                return None


def extract_each(
    output: TypeForm[T],
    texts: Iterable[str],
    *,
    instructions: str = INSTRUCTIONS,
    client: OpenAI | None = None,
    concurrency: int = 16,
    on_progress: OnProgress | None = None,
    **options: Unpack[ChatOptions],
) -> Generator[Extracted[T]]:
    """Iterate what becomes of each text, in the order of ``texts``, with ``concurrency`` of them under way.

    ``texts`` are read as they are needed, so a generator of a million takes no memory. An error of one text is in its
    ``Extracted``; what fails them all (no connection, a refused key, a budget that is used up) is raised after what was
    under way has been given. ``pace=`` keeps within limits per minute. ``on_progress`` gets the number of texts done.
    """
    items = aextract_each(
        output,
        texts,
        instructions=instructions,
        client=portal_client(client),
        concurrency=concurrency,
        on_progress=on_progress,
        **options,
    )
    with closing(portal.iterate(items)) as given:
        yield from given


async def _iterate(texts: Iterable[str] | AsyncIterable[str]) -> AsyncIterator[str]:
    if isinstance(texts, AsyncIterable):
        async for text in texts:
            yield text
        return
    for text in texts:
        yield text
