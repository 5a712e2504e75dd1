"""OpenAI's own arithmetic for chat prompts: what stands around the texts of messages and tools.

Source: "How to count tokens with tiktoken" in OpenAI's cookbook, which gives these numbers for gpt-3.5-turbo, gpt-4,
gpt-4o and gpt-4o-mini. What it does not cover (newer models, calls of tools, images, nested parameters) is computed
in the same manner and reported as not documented.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from antiphon.toolkit.tokens.text_estimate import PER_IMAGE, call_texts, is_image, message_parts

if TYPE_CHECKING:
    import tiktoken

PER_MESSAGE = 3
PER_NAME = 1
START_OF_ANSWER = 3
_DOCUMENTED = ("gpt-3.5-turbo", "gpt-4", "gpt-4o", "gpt-4o-mini")


@dataclass(frozen=True, slots=True)
class ToolOverhead:
    """Tokens around the texts of function definitions, by family of models."""

    function: int
    properties: int = 3
    key: int = 3
    enum: int = -3
    enum_item: int = 3
    end: int = 12


_GPT_4O_TOOLS = ToolOverhead(function=7)
_GPT_4_TOOLS = ToolOverhead(function=10)


@dataclass(frozen=True, slots=True)
class OpenAICounter:
    """Counts for ``model`` with its ``encoding``."""

    encoding: tiktoken.Encoding
    model: str

    def text(self, text: str) -> int:
        """Return the tokens of ``text`` alone; what looks like a special token counts as ordinary text."""
        return len(self.encoding.encode(text, disallowed_special=()))

    def prompt(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> tuple[int, bool]:
        """Return the tokens of a prompt, and whether all of it follows what OpenAI documents."""
        documented = is_documented(self.model)
        documented = documented and all(_is_plain(message) for message in messages) and all(map(_is_flat, tools))
        tokens = START_OF_ANSWER + sum(map(self._message, messages))
        return tokens + self._tools(tools), documented

    def _message(self, message: Mapping[str, Any]) -> int:
        tokens = PER_MESSAGE + self.text(str(message.get("role", "")))
        for part in message_parts(message):
            tokens += PER_IMAGE if is_image(part) else self.text(str(part.get("text") or part.get("refusal") or ""))
        if message.get("name"):
            tokens += PER_NAME + self.text(str(message["name"]))
        for call in message.get("tool_calls") or ():
            tokens += PER_MESSAGE + sum(map(self.text, call_texts(call)))
        return tokens

    def _tools(self, tools: Sequence[Mapping[str, Any]]) -> int:
        if not tools:
            return 0
        overhead = _GPT_4_TOOLS if self.encoding.name == "cl100k_base" else _GPT_4O_TOOLS
        return overhead.end + sum(self._tool(tool, overhead) for tool in tools)

    def _tool(self, tool: Mapping[str, Any], overhead: ToolOverhead) -> int:
        if "function" in tool:
            return self._function(tool["function"], overhead)
        # A custom tool, or one that the server runs itself.
        return overhead.function + self.text(json.dumps(tool))

    def _function(self, function: Mapping[str, Any], overhead: ToolOverhead) -> int:
        tokens = overhead.function + self.text(f"{function['name']}:{_sentence(function)}")
        properties = _properties(function)
        if properties:
            tokens += overhead.properties
        for key, schema in properties.items():
            tokens += overhead.key + self.text(f"{key}:{schema.get('type', '')}:{_sentence(schema)}")
            if "enum" in schema:
                tokens += overhead.enum
                tokens += sum(overhead.enum_item + self.text(str(item)) for item in schema["enum"])
            if nested := {name: schema[name] for name in _NESTED & schema.keys()}:
                tokens += self.text(json.dumps(nested))
        return tokens


_NESTED = {"properties", "items", "anyOf", "$ref", "allOf"}


def is_documented(model: str) -> bool:
    """Tell whether OpenAI documents the arithmetic for ``model`` or a dated version of it."""
    return any(model == name or model.startswith((f"{name}-0", f"{name}-1", f"{name}-2024")) for name in _DOCUMENTED)


def _is_plain(message: Mapping[str, Any]) -> bool:
    plain_keys = {"role", "content", "name"}
    given = {key for key, value in message.items() if value is not None}
    return given <= plain_keys and all(part.get("type") == "text" for part in message_parts(message))


def _is_flat(tool: Mapping[str, Any]) -> bool:
    if "function" not in tool:
        return False
    return not any(_NESTED & schema.keys() for schema in _properties(tool["function"]).values())


def _properties(function: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    parameters: Mapping[str, Any] | None = function.get("parameters")
    return (parameters or {}).get("properties") or {}


def _sentence(described: Mapping[str, Any]) -> str:
    return str(described.get("description") or "").removesuffix(".")
