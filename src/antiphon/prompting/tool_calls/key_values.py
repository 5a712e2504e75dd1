"""Arguments written as key-value pairs, as GLM, Qwen3-Coder or MiniCPM do, instead of as one JSON object."""

import json
from collections.abc import Mapping
from typing import Any, Literal, cast

import msgspec

from antiphon.prompting.schemas.compile import check_schema
from antiphon.prompting.tool_calls.scanning import JsonScanner, partial
from antiphon.protocol.chat import Tool
from antiphon.protocol.errors import ApiError

_MANAGED = {"type", "properties", "required", "additionalProperties", "description", "title", "$defs", "definitions"}
_PLAIN = {"type", "description", "title", "default", "examples", "enum", "const"}


class KeyValueSyntax(msgspec.Struct, frozen=True, kw_only=True):
    """``first`` precedes the first pair, ``separator`` each further one; a pair is KEY ``assign`` VALUE ``ending``.

    Values are JSON; with ``raw``, plain strings have no quotes.
    """

    first: str
    assign: str
    separator: str
    ending: str
    raw: bool

    def write(self, arguments: Mapping[str, Any]) -> str:
        """Return the text of arguments."""
        pairs = [f"{key}{self.assign}{self._value(value)}{self.ending}" for key, value in arguments.items()]
        return self.first + self.separator.join(pairs) if pairs else ""

    def _value(self, value: Any) -> str:
        return value if self.raw and isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def properties_of(tool: Tool) -> dict[str, dict[str, Any]]:
    """Return the schemas of a tool's parameters, each complete in itself."""
    parameters = tool.parameters or {}
    shared = {key: parameters[key] for key in ("$defs", "definitions") if key in parameters}
    properties = cast("dict[str, Any]", parameters.get("properties") or {})
    return {key: {**shared, **cast("dict[str, Any]", value)} for key, value in properties.items()}


def is_plain_text(schema: Mapping[str, Any]) -> bool:
    """Whether a parameter is a string with no rules that raw text could break."""
    choices = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if choices is not None:
        return all(isinstance(choice, str) for choice in choices) and set(schema) <= _PLAIN
    return schema.get("type") == "string" and set(schema) <= _PLAIN


def check_key_values(tool: Tool, model: str, param: str) -> None:
    """Refuse parameters with rules that span several arguments. Raises ``ApiError`` 400 naming the keyword."""
    parameters = tool.parameters or {}
    keyword = next((key for key in parameters if key not in _MANAGED), None)
    properties = cast("dict[str, Any]", parameters.get("properties") or {})
    if keyword is None and not all(isinstance(value, dict) for value in properties.values()):
        keyword = "properties"
    if keyword is None and set(cast("list[str]", parameters.get("required") or [])) - set(properties):
        keyword = "required"
    if keyword is not None:
        raise ApiError(
            400,
            f"Invalid schema for function '{tool.name}': '{keyword}' at the top of its parameters cannot be enforced in "
            f"the form in which `{model}` writes calls, so it is not permitted.",
            param=param,
            code="invalid_function_parameters",
        )
    for value in properties_of(tool).values():
        # Each value is a schema of its own here, so none may be unsatisfiable, not even one that could be left out.
        check_schema(value, what=f"function '{tool.name}'", param=param, code="invalid_function_parameters")


class KeyValueParser:
    """Reads key-value arguments and gives them as the text of a JSON object. ``following`` is what comes after the last pair."""

    def __init__(self, key_values: KeyValueSyntax, tool: Tool, following: str) -> None:
        self._key_values = key_values
        self._properties = properties_of(tool)
        self._following = following
        self._state: Literal["first", "key", "raw", "json", "ending", "next"] = "first"
        self._scanner = JsonScanner()
        self._buffer = ""
        self._json: list[str] = []
        self.is_broken = False
        self.is_done = False

    @property
    def rest(self) -> str:
        """What was fed and is not read yet."""
        return self._buffer

    def feed(self, text: str) -> str:
        """Take more text; return more of the JSON."""
        self._buffer += text
        steps = {
            "first": self._first,
            "key": self._key,
            "raw": self._raw,
            "json": self._value,
            "ending": self._ending,
            "next": self._next,
        }
        while not (self.is_done or self.is_broken) and steps[self._state]():
            pass
        made, self._json = "".join(self._json), []
        return made

    def _first(self) -> bool:
        mark = self._key_values.first or self._following
        if mark.startswith(self._buffer) and mark != self._buffer:
            return False
        if self._buffer.startswith(mark) == bool(self._key_values.first):
            self._take(len(self._key_values.first), "{")
            self._state = "key"
            return True
        self._take(0, "{}")
        self.is_done = True
        return False

    def _key(self) -> bool:
        key, found, _ = self._buffer.partition(self._key_values.assign)
        if not found:
            self.is_broken = not any(name.startswith(key[: len(name)]) for name in self._properties)
            return False
        if key not in self._properties:
            self.is_broken = True
            return False
        self._take(len(key) + len(self._key_values.assign), json.dumps(key, ensure_ascii=False) + ": ")
        if self._key_values.raw and is_plain_text(self._properties[key]):
            self._json.append('"')
            self._state = "raw"
        else:
            self._scanner = JsonScanner()
            self._state = "json"
        return True

    def _raw(self) -> bool:
        value, found, _ = self._buffer.partition(self._key_values.ending)
        size = len(value) if found else len(self._buffer) - partial(self._buffer, self._key_values.ending)
        self._take(size, json.dumps(self._buffer[:size], ensure_ascii=False)[1:-1])
        if found:
            self._json.append('"')
            self._state = "ending"
        return bool(found)

    def _value(self) -> bool:
        if not self._buffer:
            return False
        end = self._scanner.feed(self._buffer)
        if end == -1:
            self.is_broken = True
            return False
        size = len(self._buffer) if end is None else end
        self._take(size, self._buffer[:size])
        if end is not None:
            self._state = "ending"
        return end is not None

    def _ending(self) -> bool:
        if not self._buffer.startswith(self._key_values.ending):
            self.is_broken = not self._key_values.ending.startswith(self._buffer)
            return False
        self._take(len(self._key_values.ending), "")
        self._state = "next"
        return True

    def _next(self) -> bool:
        separator = self._key_values.separator
        if self._buffer.startswith(separator):
            self._take(len(separator), ", ")
            self._state = "key"
            return True
        if not separator.startswith(self._buffer):
            self._take(0, "}")
            self.is_done = True
        return False

    def _take(self, size: int, made: str) -> None:
        self._buffer = self._buffer[size:]
        self._json.append(made)
