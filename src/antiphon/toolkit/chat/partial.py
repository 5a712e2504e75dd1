"""Structured output while it is still being written."""

from __future__ import annotations

import json
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


class ItemScanner:
    """Counts the complete items of the list in ``{"value": [...]}`` while its text arrives."""

    def __init__(self) -> None:
        self.num_complete = 0
        self._depth = 0
        self._is_text = self._is_escaped = self._has_item = False

    def feed(self, text: str) -> int:
        """Read the next piece; returns how many items are complete."""
        for char in text:
            if self._is_text:
                self._read_in_text(char)
            elif char == '"':
                self._is_text = self._has_item = True
            elif char in "[{":
                self._depth += 1
                # The depth of the list's items is two: the object, then the list.
                self._has_item = self._depth > _ITEM_DEPTH
            elif char in "]}":
                self._close()
            elif char == ",":
                self._end_item()
            elif not char.isspace() and char != ":":
                self._has_item = True
        return self.num_complete

    def _read_in_text(self, char: str) -> None:
        if self._is_escaped:
            self._is_escaped = False
        elif char == "\\":
            self._is_escaped = True
        elif char == '"':
            self._is_text = False
            if self._depth == _ITEM_DEPTH:
                self._end_item()

    def _close(self) -> None:
        self._end_item()
        self._depth -= 1
        if self._depth == _ITEM_DEPTH:
            self._has_item = True
            self._end_item()

    def _end_item(self) -> None:
        if self._depth == _ITEM_DEPTH and self._has_item:
            self.num_complete += 1
            self._has_item = False


_ITEM_DEPTH = 2


async def read_items(
    events: AsyncGenerator[Event | Reply[list[T]]], schema: OutputSchema[list[T]], item: TypeAdapter[T]
) -> AsyncGenerator[T | Reply[list[T]]]:
    """Yield each item of a list as soon as it is complete, validated; then the reply.

    Stops at an item that is not valid: the reply's own validation then says what is wrong.
    """
    text, scanner = "", ItemScanner()
    num_given, is_valid = 0, True
    async with aclosing(events) as parts:
        async for part in parts:
            if isinstance(part, Reply):
                for value in part.parsed[num_given:]:
                    yield value
                yield part
            elif isinstance(part, TextDelta) and is_valid:
                text += part.text
                num_complete = scanner.feed(part.text)
                if num_complete == num_given:
                    continue
                for value in _items_of(schema, text)[num_given:num_complete]:
                    try:
                        # As JSON: a strict model takes a date from JSON text, and not from a Python one.
                        complete = item.validate_json(json.dumps(value))
                    except ValidationError:
                        is_valid = False
                        break
                    yield complete
                    num_given += 1


def _items_of(schema: OutputSchema[list[T]], text: str) -> list[Any]:
    """Return the items so far; none of an answer that is not a list, which the reply's own validation refuses."""
    value = schema.partial(text)
    return cast("list[Any]", value) if isinstance(value, list) else []
