"""Typed values out of text: ``extract`` and its kin.

The server keeps an answer to the type's schema; the type's own validators are checked here, and only when they fail is
the model asked again. Every attempt's text and usage is in ``reply.attempts``, or in the error.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, TypeVar, Unpack, cast

from openai import OpenAI
from pydantic import TypeAdapter

from antiphon.toolkit._sync import portal
from antiphon.toolkit.chat.chat import AsyncChat
from antiphon.toolkit.chat.chat_state import ChatOptions
from antiphon.toolkit.chat.partial import read_items
from antiphon.toolkit.chat.reply import Reply
from antiphon.toolkit.chat.result_stream import AsyncResultStream, ResultStream
from antiphon.toolkit.clients import Client, portal_client
from antiphon.toolkit.schemas.output_schema import describe_output

if TYPE_CHECKING:
    from typing_extensions import TypeForm

T = TypeVar("T")
INSTRUCTIONS = (
    "Extract what is asked for from the text that the user sends. Use only what the text says; "
    "where it does not say, use null if the schema allows it."
)


async def aextract(
    output: TypeForm[T],
    text: str,
    *,
    instructions: str = INSTRUCTIONS,
    client: Client | None = None,
    **options: Unpack[ChatOptions],
) -> Reply[T]:
    """Do what ``extract`` does, from asynchronous code."""
    async with AsyncChat(instructions, client=client, **defaults(options)) as chat:
        return await chat.parse(output, text)


def extract(
    output: TypeForm[T],
    text: str,
    *,
    instructions: str = INSTRUCTIONS,
    client: OpenAI | None = None,
    **options: Unpack[ChatOptions],
) -> Reply[T]:
    """Return a value of type ``output`` read from ``text``, as ``reply.parsed``.

    ``output`` is a pydantic model, a dataclass, a TypedDict, or a list of one (``list[Person]`` finds them all). The
    temperature is 0 unless given, where the model takes one. Raises ExtractionError when the validators fail on all ``attempts`` (3),
    TruncatedError, RefusalError, OutputError for an endpoint that does not keep to the schema.
    """
    return portal.call(aextract(output, text, instructions=instructions, client=portal_client(client), **options))


async def aextract_many(
    output: TypeForm[T],
    text: str,
    *,
    instructions: str = INSTRUCTIONS,
    client: Client | None = None,
    **options: Unpack[ChatOptions],
) -> Reply[list[T]]:
    """Do what ``extract_many`` does, from asynchronous code."""
    return await aextract(_list_of(output), text, instructions=instructions, client=client, **options)


def extract_many(
    output: TypeForm[T],
    text: str,
    *,
    instructions: str = INSTRUCTIONS,
    client: OpenAI | None = None,
    **options: Unpack[ChatOptions],
) -> Reply[list[T]]:
    """Return every value of type ``output`` found in ``text``, as the list ``reply.parsed``; see ``extract``."""
    return portal.call(aextract_many(output, text, instructions=instructions, client=portal_client(client), **options))


def astream_items(
    output: TypeForm[T],
    text: str,
    *,
    instructions: str = INSTRUCTIONS,
    client: Client | None = None,
    **options: Unpack[ChatOptions],
) -> AsyncResultStream[T, list[T]]:
    """Do what ``stream_items`` does, from asynchronous code."""
    return AsyncResultStream(_items(output, text, instructions, client, options))


def stream_items(
    output: TypeForm[T],
    text: str,
    *,
    instructions: str = INSTRUCTIONS,
    client: OpenAI | None = None,
    **options: Unpack[ChatOptions],
) -> ResultStream[T, list[T]]:
    """Iterate the values of type ``output`` found in ``text``, each as soon as it is complete and validated.

    What was given cannot be taken back, so nothing is asked again: raises ExtractionError at the end if an item is not
    valid. For one object as it grows, see ``Chat.stream_parse``.
    """
    return ResultStream(astream_items(output, text, instructions=instructions, client=portal_client(client), **options))


async def _items(
    output: TypeForm[T], text: str, instructions: str, client: Client | None, options: ChatOptions
) -> AsyncGenerator[T | Reply[list[T]]]:
    once = defaults(options)
    once["attempts"] = 1
    async with AsyncChat(instructions, client=client, **once) as chat:
        schema = describe_output(_list_of(output))
        async with aclosing(read_items(chat.events(text, schema), schema, TypeAdapter(output))) as items:
            async for item in items:
                yield item


def _list_of(output: TypeForm[T]) -> TypeForm[list[T]]:
    return cast("TypeForm[list[T]]", list.__class_getitem__(output))


def defaults(options: ChatOptions) -> ChatOptions:
    return {**options, "prefer": {"temperature": 0.0, **options.get("prefer", {})}}
