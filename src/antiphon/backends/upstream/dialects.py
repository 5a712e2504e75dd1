"""Answers of servers that speak a dialect of the API, brought into OpenAI's form.

What is in OpenAI's form already is not touched. Read here: finish reasons in other words, content as a list of parts,
tool calls (``wire/tool_call_deltas.py``), choices that are null or have no index, a ``message`` in place of a ``delta``.
"""

from typing import Any, cast

import msgspec

from antiphon.backends.upstream.chunks import ErrorChunk
from antiphon.backends.upstream.sse import MalformedStream
from antiphon.wire.finish_reasons import STANDARD, finish_reason, says_failure, says_nothing
from antiphon.wire.tool_call_deltas import ToolCallNumbers, UnnamedCallError, arguments_text, whole_call

Json = dict[str, Any]

_TEXT_PARTS = frozenset({"text", "output_text"})
_REASONING_PARTS = frozenset({"thinking", "reasoning"})


class Normaliser:
    """The chunks of one stream, or one whole answer."""

    def __init__(self, *, is_stream: bool) -> None:
        self.is_stream = is_stream
        self._calls: dict[int, ToolCallNumbers] = {}
        self._said: set[int] = set()
        """The choices that came as deltas: a message that ends one of them says it all once more."""

    @property
    def is_calling(self) -> bool:
        """Whether a tool call has come, so that the end of its choice has to be looked at."""
        return bool(self._calls)

    def note_delta(self, index: int) -> None:
        """Record that a choice comes as deltas that say something."""
        self._said.add(index)

    def apply(self, answer: Json) -> bool:
        """Bring a chunk or a whole answer into OpenAI's form, in place; returns whether that changed it.

        Raises ``ErrorChunk`` for a choice that ended in an error, ``MalformedStream`` for a tool call without a name and
        a choice of a whole answer without a message.
        """
        found = answer.get("choices")
        choices = cast("list[Any]", found) if isinstance(found, list) else []
        answer["choices"] = kept = [cast("Json", choice) for choice in choices if isinstance(choice, dict)]
        is_changed = kept != found
        for place, choice in enumerate(kept):
            try:
                is_changed |= self._choice(choice, place)
            except UnnamedCallError as error:
                raise MalformedStream(str(error)) from None
        return is_changed

    def _choice(self, choice: Json, place: int) -> bool:
        before = dict(choice)
        if not isinstance(choice.get("index"), int):
            choice["index"] = place
        _set_reason(choice)
        if "text" in choice:
            return choice != before
        if self.is_stream and not isinstance(choice.get("delta"), dict):
            message = choice.pop("message", None)
            is_news = isinstance(message, dict) and choice["index"] not in self._said
            choice["delta"] = cast("Json", message) if is_news else {}
        elif self.is_stream and any(cast("Json", choice["delta"]).get(key) for key in ("content", "tool_calls")):
            self.note_delta(choice["index"])
        said = choice.get("delta" if self.is_stream else "message")
        is_changed = choice != before
        if not isinstance(said, dict):
            raise MalformedStream("a choice without a message")
        said = cast("Json", said)
        is_changed |= _join_parts(said)
        is_changed |= self._rewrite_calls(said, choice["index"])
        if choice.get("finish_reason") is not None and choice["index"] in self._calls:
            due = self._calls[choice["index"]].finish()
            if due:
                said["tool_calls"] = [*(said.get("tool_calls") or ()), *due]
                is_changed = True
        return is_changed

    def _rewrite_calls(self, said: Json, index: int) -> bool:
        is_changed = False
        function = said.get("function_call")
        if isinstance(function, dict) and not isinstance(cast("Json", function).get("arguments"), str | None):
            said["function_call"] = {**function, "arguments": arguments_text(cast("Json", function)["arguments"])}
            is_changed = True
        calls = said.get("tool_calls")
        if isinstance(calls, dict):
            calls, is_changed = [cast("Json", calls)], True
        if not isinstance(calls, list) or not calls:
            return is_changed
        calls = cast("list[Any]", calls)
        if self.is_stream:
            said["tool_calls"] = self._calls.setdefault(index, ToolCallNumbers()).rewrite(calls)
        else:
            said["tool_calls"] = [whole_call(cast("Json", call)) for call in calls if isinstance(call, dict)]
        return is_changed or said["tool_calls"] != calls


def _set_reason(choice: Json) -> None:
    reason = choice.get("finish_reason")
    if not isinstance(reason, str | None):
        # Numbers and other values mean something else at each server. As text, clients with strict types can read them.
        choice["finish_reason"] = msgspec.json.encode(reason).decode()
        return
    if reason is None or reason in STANDARD:
        return
    if says_nothing(reason):
        choice["finish_reason"] = None
    elif says_failure(reason):
        error = choice.get("error") or {"message": f"The answer ended with the finish_reason {reason!r}."}
        raise ErrorChunk(msgspec.json.encode(error))
    else:
        # A reason that nobody knows stays as it is: it may be one of tomorrow's.
        choice["finish_reason"] = finish_reason(reason) or reason


def _join_parts(said: Json) -> bool:
    """Replace a list of text and reasoning parts by their texts; a list with any other part stays."""
    parts = said.get("content")
    if isinstance(parts, dict):
        parts = [cast("Json", parts)]
    if not isinstance(parts, list):
        return False
    text: list[str] = []
    reasoning: list[str] = []
    for part in cast("list[Any]", parts):
        kind, piece = _part(part)
        if kind is None:
            return False
        (reasoning if kind == "reasoning" else text).append(piece)
    said["content"] = "".join(text) if text or not reasoning else None
    if reasoning:
        said["reasoning_content"] = (said.get("reasoning_content") or "") + "".join(reasoning)
    return True


def _part(part: Any) -> tuple[str | None, str]:
    if isinstance(part, str):
        return "text", part
    if not isinstance(part, dict):
        return None, ""
    fields = cast("Json", part)
    kind = fields.get("type", "text")
    if kind in _TEXT_PARTS and isinstance(fields.get("text"), str | None):
        return "text", fields.get("text") or ""
    if kind in _REASONING_PARTS:
        value = fields.get(kind, fields.get("text"))
        pieces = [_part(each) for each in cast("list[Any]", value)] if isinstance(value, list) else [_part(value)]
        if all(inner is not None for inner, _ in pieces):
            return "reasoning", "".join(piece for _, piece in pieces)
    return None, ""
