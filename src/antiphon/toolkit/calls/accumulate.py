"""Chunks of a stream into one completion, for the dialects of the API that servers speak.

The official client's own accumulator follows OpenAI to the letter and raises TypeError for some other servers. What is
read here besides: tool calls without an index, or with indices that repeat or begin at 1; names that are repeated in each
delta; arguments as an object; content as parts; ``choices`` null.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from openai.types.chat import ChatCompletion

from antiphon.toolkit.calls.dialects import failure, finish_reason, plain_text
from antiphon.toolkit.messages import reasoning_text

Json = dict[str, Any]


@dataclass(slots=True)
class _Call:
    """A tool call so far."""

    id: str = ""
    index: int | None = None
    name: str = ""
    arguments: str = ""
    is_custom: bool = False

    @property
    def is_complete(self) -> bool:
        """Whether the arguments are a whole object; of a custom tool's text nobody can tell."""
        try:
            return isinstance(json.loads(self.arguments), dict)
        except ValueError:
            return False


class ToolCallAccumulator:
    """Merges deltas of tool calls: by id, else by name and index, else by their position in the chunk."""

    def __init__(self) -> None:
        self.calls: list[_Call] = []
        self._at_position: dict[int, _Call] = {}

    def add(self, deltas: Sequence[Any]) -> None:
        """Merge the entries of one chunk; two entries of a chunk with different ids or names are never one call."""
        for position, entry in enumerate(deltas):
            if isinstance(entry, Mapping):
                delta = cast("Mapping[str, Any]", entry)
                call = self._call_of(delta, position, alone=len(deltas) == 1)
                self._at_position[position] = call
                _merge(call, delta)

    def values(self) -> list[Json]:
        """Return the calls in the API's form, in the order in which they began."""
        return [_as_api(call) for call in self.calls]

    def _call_of(self, delta: Mapping[str, Any], position: int, *, alone: bool) -> _Call:
        id_, name = _text(delta.get("id")), _text(_function(delta).get("name"))
        index = delta.get("index") if isinstance(delta.get("index"), int) else None
        if id_ and (known := next((call for call in self.calls if call.id == id_), None)) is not None:
            return known
        candidate = self._candidate(index, position, alone=alone)
        if candidate is None or self._is_another(candidate, id_, name):
            candidate = _Call(index=index)
            self.calls.append(candidate)
        return candidate

    def _candidate(self, index: int | None, position: int, *, alone: bool) -> _Call | None:
        if index is not None:
            return next((call for call in reversed(self.calls) if call.index == index), None)
        if alone:
            return self.calls[-1] if self.calls else None
        return self._at_position.get(position)

    @staticmethod
    def _is_another(call: _Call, id_: str, name: str) -> bool:
        if id_ and call.id:
            # Some servers make a new id for every delta; a call that begins has a name.
            return bool(name)
        if name and call.name and name != call.name:
            return bool(call.arguments)
        return bool(name and call.name and call.is_complete)


def _as_api(call: _Call) -> Json:
    if call.is_custom:
        return {"id": call.id, "type": "custom", "custom": {"name": call.name, "input": call.arguments}}
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _merge(call: _Call, delta: Mapping[str, Any]) -> None:
    function = _function(delta)
    call.is_custom = call.is_custom or isinstance(delta.get("custom"), Mapping)
    call.id = call.id or _text(delta.get("id"))
    name = _text(function.get("name"))
    if name and name != call.name:
        call.name += name
    arguments = function.get("input") if call.is_custom else function.get("arguments")
    if isinstance(arguments, str):
        call.arguments += arguments
    elif isinstance(arguments, Mapping):
        # An object is whole, whenever it comes.
        call.arguments = json.dumps(cast("Json", arguments), ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Added:
    """What a chunk brought: text, reasoning, and whether it has text or a tool call."""

    text: str = ""
    reasoning: str = ""
    has_token: bool = False

    def joined(self, other: Added) -> Added:
        return Added(self.text + other.text, self.reasoning + other.reasoning, self.has_token or other.has_token)


class ChunkAccumulator:
    """The completion of a stream's first choice so far."""

    def __init__(self) -> None:
        self._head: Json = {}
        self._usage: Any = None
        self._texts: dict[str, str] = {}
        self._parts: dict[str, list[Any]] = {}
        self._logprobs: dict[str, list[Any]] = {}
        self._calls = ToolCallAccumulator()
        self._finish_reason: str | None = None
        self.failure: str | None = None
        """Why the server gave up on the answer, None if it did not."""
        self.has_choice = False

    @property
    def finish_reason(self) -> str | None:
        return self._finish_reason

    def add(self, chunk: Json) -> Added:
        """Take in a chunk; returns what it brought."""
        for key, value in chunk.items():
            if key not in {"choices", "usage", "object"} and value is not None:
                self._head.setdefault(key, value)
        self._usage = chunk.get("usage") or self._usage
        added = Added()
        for choice in cast("list[Any]", chunk.get("choices") or []):
            if isinstance(choice, dict) and not cast("Json", choice).get("index"):
                added = added.joined(self._add_choice(cast("Json", choice)))
        return added

    def completion(self) -> ChatCompletion:
        """Return the whole in the form of an answer that is not streamed."""
        message: Json = {"role": "assistant", "content": None, "refusal": None, **self._texts, **self._parts}
        if calls := self._calls.values():
            message["tool_calls"] = calls
        choice = {
            "index": 0,
            "message": message,
            "finish_reason": self._finish_reason,
            "logprobs": self._logprobs or None,
        }
        whole: Json = {**self._head, "object": "chat.completion", "choices": [choice], "usage": self._usage}
        whole.setdefault("model", "")
        return ChatCompletion.construct(**whole)

    def _add_choice(self, choice: Json) -> Added:
        self.has_choice = True
        self._finish_reason = finish_reason(choice.get("finish_reason")) or self._finish_reason
        self.failure = failure(choice) or self.failure
        delta = choice.get("delta") or choice.get("message")
        if not isinstance(delta, dict):
            return Added()
        fields = cast("Json", delta)
        calls = fields.get("tool_calls")
        calls = [cast("Json", calls)] if isinstance(calls, dict) else calls
        self._calls.add(cast("list[Any]", calls) if isinstance(calls, list) else [])
        text = plain_text(fields.get("content"))
        for key, value in {**fields, "content": text}.items():
            # Reasoning is a text of its own, under a name that differs from server to server.
            if isinstance(value, str) and key not in {"role", "tool_calls"}:
                self._texts[key] = self._texts.get(key, "") + value
            elif isinstance(value, list) and key not in {"content", "tool_calls"}:
                # Reasoning in parts, annotations: what came, in order.
                self._parts.setdefault(key, []).extend(cast("list[Any]", value))
        for key, tokens in cast("Json", choice.get("logprobs") or {}).items():
            if isinstance(tokens, list):
                self._logprobs.setdefault(key, []).extend(cast("list[Any]", tokens))
        return Added(text or "", reasoning_text(fields) or "", text not in {None, ""} or isinstance(calls, list))


def _function(delta: Mapping[str, Any]) -> Mapping[str, Any]:
    for kind in ("function", "custom"):
        named = delta.get(kind)
        if isinstance(named, Mapping):
            return cast("Mapping[str, Any]", named)
    # Some servers send name and arguments without "function" around them.
    return delta


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
