"""Text for a model to read, as a string or as token ids, one or many: ``prompt`` and ``input``."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from antiphon.protocol import problems
from antiphon.protocol.errors import ApiError
from antiphon.protocol.fields import Schema, Spec

MAX_TOKEN_ID = 2**31 - 1
MAX_INPUTS = 2048

Input = str | tuple[int, ...]


def read_inputs(value: Any) -> tuple[Input, ...]:
    """Return the inputs of a checked value: a string, strings, token ids, or lists of token ids."""
    if isinstance(value, str):
        return (value,)
    items = cast("list[Any]", value)
    if isinstance(items[0], int):
        return (tuple(items),)
    return tuple(item if isinstance(item, str) else tuple(item) for item in items)


@dataclass(frozen=True)
class Inputs(Spec):
    """One of the four forms, all of one kind. ``error`` words what is wrong otherwise."""

    error: Callable[[str, Any], ApiError]
    allows_empty_text: bool = True

    def check(self, value: Any, path: str) -> None:
        if not (self._is_text(value) or self._is_list(value)):
            raise self.error(path, value)

    def _is_text(self, value: Any) -> bool:
        return type(value) is str and (self.allows_empty_text or value != "")

    def _is_list(self, value: Any) -> bool:
        if type(value) is not list or not value:
            return False
        items = cast("list[Any]", value)
        if type(items[0]) is int:
            return _are_tokens(items)
        return len(items) <= MAX_INPUTS and (
            all(map(self._is_text, items))
            or all(type(item) is list and _are_tokens(cast("list[Any]", item)) for item in items)
        )

    def schema(self) -> Schema:
        text: Schema = {"type": "string"} | ({} if self.allows_empty_text else {"minLength": 1})
        tokens = {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0, "maximum": MAX_TOKEN_ID}}
        many = {"type": "array", "minItems": 1, "maxItems": MAX_INPUTS}
        return {"anyOf": [text, many | {"items": text}, tokens, many | {"items": tokens}]}


def _are_tokens(items: list[Any]) -> bool:
    return bool(items) and all(type(item) is int and 0 <= item <= MAX_TOKEN_ID for item in items)


def wrong_prompt(path: str, value: Any) -> ApiError:
    """A prompt that has none of the four forms."""
    if not isinstance(value, (str, list)):
        expected = "one of a string or array of strings, integers, or integer arrays"
        return problems.wrong_type(path, expected, value)
    return problems.bad_request(
        f"Invalid '{path}': expected a string, or a non-empty array with at most {MAX_INPUTS} strings, or of token ids, "
        "or of arrays of token ids, and nothing mixed.",
        path,
        "invalid_value",
    )


def wrong_input(path: str, value: Any) -> ApiError:  # noqa: ARG001 - the API says no more than this
    """An embedding input that has none of the four forms, is empty, or has too many items."""
    return problems.bad_request(f"'$.{path}' is invalid. Please check the API reference.")
