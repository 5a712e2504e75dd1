"""Chunks of a stream into one completion, for the dialects of the API that servers speak.

The official client's own accumulator follows OpenAI to the letter and raises TypeError for some other servers. What is
read here besides: tool calls in other forms (``wire/tool_call_deltas.py``); content as parts; ``choices`` null.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from openai.types.chat import ChatCompletion

from antiphon.toolkit.calls.dialects import failure, finish_reason, plain_text
from antiphon.toolkit.messages import reasoning_text
from antiphon.wire.tool_call_deltas import StreamedCall, ToolCallNumbers

Json = dict[str, Any]


class ToolCallAccumulator:
    """Merges deltas of tool calls, in whatever dialect they come."""

    def __init__(self) -> None:
        self._numbers = ToolCallNumbers()

    def add(self, deltas: Sequence[Any]) -> None:
        """Merge the entries of one chunk."""
        self._numbers.rewrite(deltas)

    def values(self) -> list[Json]:
        """Return the calls in the API's form, in the order in which they began."""
        return [_as_api(call) for call in self._numbers.calls]


def _as_api(call: StreamedCall) -> Json:
    head = {**call.more, "id": call.id or ""}
    if call.is_custom:
        return {**head, "type": "custom", "custom": {"name": call.name or "", "input": call.arguments}}
    text = "{}" if call.is_object and not call.arguments else call.arguments
    return {**head, "type": "function", "function": {"name": call.name or "", "arguments": text}}


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
        self._has_deltas = False

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
        delta = choice.get("delta")
        if isinstance(delta, dict):
            self._has_deltas |= any(cast("Json", delta).get(key) for key in ("content", "tool_calls"))
        if not delta and not self._has_deltas:
            delta = choice.get("message")  # after deltas, a message says it all once more
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
