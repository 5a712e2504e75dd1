"""Structured output while it is still being written."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from antiphon.toolkit.chat.reply import AnswerRejected, Event, Reply, TextDelta
from antiphon.toolkit.schemas.output_schema import OutputSchema

T = TypeVar("T")


async def read_partials(
    events: AsyncGenerator[Event | Reply[T]], schema: OutputSchema[T]
) -> AsyncGenerator[Any | Reply[T]]:
    """Yield what the answer says so far, as plain data and not validated, each time it says more; then the reply."""
    text, last = "", None
    async with aclosing(events) as parts:
        async for part in parts:
            if isinstance(part, Reply):
                yield part
            elif isinstance(part, AnswerRejected):
                text = ""
            elif isinstance(part, TextDelta):
                text += part.text
                so_far = schema.partial(text)
                if so_far is not None and so_far != last:
                    yield so_far
                    last = so_far


async def read_items(
    partials: AsyncGenerator[Any | Reply[list[T]]], item: TypeAdapter[T]
) -> AsyncGenerator[T | Reply[list[T]]]:
    """Yield each item of a list as soon as it is complete, validated; then the reply.

    Stops at an item that is not valid: the reply's own validation then says what is wrong.
    """
    num_given, is_valid = 0, True
    async with aclosing(partials) as parts:
        async for part in parts:
            if isinstance(part, Reply):
                whole = cast("Reply[list[T]]", part)
                for value in whole.parsed[num_given:]:
                    yield value
                yield whole
                return
            # The last item may still grow.
            for value in part[num_given:-1] if is_valid else ():
                try:
                    complete = item.validate_python(value)
                except ValidationError:
                    is_valid = False
                    break
                yield complete
                num_given += 1
