"""Parses a turn of tool calls, in pieces of any size."""

import secrets
from collections.abc import Callable, Mapping
from typing import Literal

from antiphon.prompting.tool_calls.key_values import KeyValueParser
from antiphon.prompting.tool_calls.scanning import JsonScanner, partial
from antiphon.prompting.tool_calls.syntax import Slot, ToolSyntax
from antiphon.protocol.chat import Tool
from antiphon.protocol.events import Event, ToolCallDelta, ToolCallStarted

_LONGEST_NAME = 256


def new_call_id() -> str:
    """Return a fresh id in the form that OpenAI's have."""
    return f"call_{secrets.token_hex(12)}"


class ToolCallParser:
    """Follows a ``ToolSyntax`` from after its trigger. Once ``over``, ``rest`` is what follows the calls.

    ``num_calls`` counts the calls that were announced. Text that does not keep to the syntax ends the calls; it never
    raises.
    """

    def __init__(
        self, index: int, syntax: ToolSyntax, tools: Mapping[str, Tool], new_id: Callable[[], str] = new_call_id
    ) -> None:
        self._index = index
        self._syntax = syntax
        self._tools = tools
        self._new_id = new_id
        self._buffer = ""
        self._seen = syntax.trigger
        self._expected = syntax.lead[len(syntax.trigger) :]
        self._at = -1
        self._state: Literal["literal", "slot", "closing", "over"] = "literal"
        self._scanner = JsonScanner()
        self._tool: Tool | None = None
        self._held = ""
        self._has_object = False
        self._key_value_parser: KeyValueParser | None = None
        self._events: list[Event] = []
        self.num_calls = 0

    @property
    def is_over(self) -> bool:
        return self._state == "over"

    @property
    def rest(self) -> str:
        """The text that belongs to no call: all of it, including the trigger, until a call is announced."""
        if self.num_calls == 0:
            return self._seen
        return self._buffer if self.is_over else ""

    def feed(self, text: str) -> list[Event]:
        """Take more text and return what it completes."""
        self._buffer += text
        if self.num_calls == 0:
            self._seen += text
        steps = {"literal": self._literal, "slot": self._slot, "closing": self._closing, "over": lambda: False}
        while steps[self._state]():
            pass
        return self._taken()

    def finish(self) -> list[Event]:
        """Return text that was held back as a possible closing that never came: the end of a custom tool's input."""
        if self._state == "slot" and self._tool is not None and self._tool.kind == "custom":
            self._emit(self._buffer)
            self._buffer = ""
        return self._taken()

    def _taken(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def _literal(self) -> bool:
        if self._buffer.startswith(self._expected):
            self._buffer = self._buffer[len(self._expected) :]
            self._at += 1
            self._state = "slot" if self._at < len(self._syntax.slots) else "closing"
            return True
        return self._wait_for(self._expected)

    def _closing(self) -> bool:
        """After a call: another one, or the end; the longer text first, since one may begin the other."""
        between, tail = self._syntax.between, self._syntax.tail
        for literal in sorted([tail] if between is None else [between, tail], key=len, reverse=True):
            if self._buffer.startswith(literal):
                self._buffer = self._buffer[len(literal) :]
                if literal == between:
                    self._next_call()
                else:
                    self._state = "over"
                return True
            if literal.startswith(self._buffer):
                return False
        self._state = "over"
        return False

    def _wait_for(self, literal: str) -> bool:
        if not literal.startswith(self._buffer):
            self._state = "over"
        return False

    def _next_call(self) -> None:
        self._at = 0
        self._state = "slot"
        self._tool = None
        self._held = ""
        self._has_object = False
        self._key_value_parser = None
        self._scanner = JsonScanner()

    def _slot(self) -> bool:
        slot = self._syntax.slots[self._at]
        match slot.kind:
            case "arguments" if self._tool is not None and self._tool.kind == "custom":
                return self._input(slot)
            case "arguments" if self._syntax.key_values is not None:
                return self._key_values(slot)
            case "arguments":
                return self._arguments(slot)
            case _:
                return self._word(slot)

    def _word(self, slot: Slot) -> bool:
        """Read a name, id or number: up to the literal that follows."""
        following = self._following(slot)
        end = self._buffer.find(following) if following else len(self._buffer)
        if end < 0:
            if len(self._buffer) > _LONGEST_NAME + len(following):
                self._state = "over"
            return False
        if slot.kind == "name" and not self._begin(self._buffer[:end]):
            return False
        self._pass(slot, end)
        return True

    def _begin(self, name: str) -> bool:
        tool = self._tools.get(name)
        if tool is None:
            self._state = "over"
            return False
        self._tool = tool
        self._events.append(ToolCallStarted(self._index, self.num_calls, self._new_id(), name, tool.kind))
        self.num_calls += 1
        self._emit(self._held)
        return True

    def _arguments(self, slot: Slot) -> bool:
        if not self._buffer:
            return False
        end = self._scanner.feed(self._buffer) if self._has_object or self._buffer[0] == "{" else -1
        self._has_object = True
        if end == -1:
            self._state = "over"
            return False
        self._emit(self._buffer[:end])
        if end is None:
            self._buffer = ""
            return False
        self._pass(slot, end)
        return True

    def _key_values(self, slot: Slot) -> bool:
        if self._tool is None or self._syntax.key_values is None:
            self._state = "over"
            return False
        if self._key_value_parser is None:
            self._key_value_parser = KeyValueParser(self._syntax.key_values, self._tool, self._following(slot))
        reading = self._key_value_parser
        self._emit(reading.feed(self._buffer))
        self._buffer = ""
        if reading.is_broken:
            self._buffer = reading.rest
            self._state = "over"
        if not reading.is_done:
            return False
        self._buffer = reading.rest
        self._pass(slot, 0)
        return True

    def _input(self, slot: Slot) -> bool:
        """Read a custom tool's input: all text up to the literal that closes it."""
        following = self._following(slot) if self._syntax.ends_inputs else self._syntax.tail
        end = self._buffer.find(following) if following else -1
        if end < 0:
            kept = len(self._buffer) - partial(self._buffer, following)
            self._emit(self._buffer[:kept])
            self._buffer = self._buffer[kept:]
            return False
        self._emit(self._buffer[:end])
        self._pass(slot, end)
        return True

    def _pass(self, slot: Slot, end: int) -> None:
        self._buffer = self._buffer[end:]
        self._expected = slot.after
        self._state = "literal"

    def _following(self, slot: Slot) -> str:
        return slot.after or self._syntax.shared

    def _emit(self, arguments: str) -> None:
        if self._tool is None:
            self._held += arguments
        elif arguments:
            self._events.append(ToolCallDelta(self._index, self.num_calls - 1, arguments))
