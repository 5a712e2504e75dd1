"""Parses generated text, in pieces of any size, into the events of one choice."""

from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from antiphon.prompting.logprobs import LogprobQueue
from antiphon.prompting.reasoning import Thinking
from antiphon.prompting.tool_calls.parser import ToolCallParser, new_call_id
from antiphon.prompting.tool_calls.scanning import partial
from antiphon.prompting.tool_calls.syntax import ToolSyntax
from antiphon.protocol.chat import Tool
from antiphon.protocol.events import ChoiceFinished, Event, FinishReason, ReasoningDelta, TextDelta, TokenLogprob


class OutputLayout(msgspec.Struct, frozen=True, kw_only=True):
    """Which parts generated text may have.

    ``syntax`` and ``tools``: calls may come, and with ``calls_only`` nothing else. ``wrappers`` are texts around the
    answer that do not belong to it. ``call_reason`` is how a turn of calls finishes.
    """

    thinking: Thinking | None = None
    syntax: ToolSyntax | None = None
    tools: tuple[Tool, ...] = ()
    calls_only: bool = False
    wrappers: tuple[str, ...] = ()
    call_reason: FinishReason = "tool_calls"


class OutputParser:
    """Parses the text of one choice into events. The result does not depend on how the text is split. It never raises."""

    def __init__(self, index: int, layout: OutputLayout, new_id: Callable[[], str] = new_call_id) -> None:
        self._index = index
        self._layout = layout
        self._logprobs = LogprobQueue()
        self._buffer = ""
        self._gap = ""
        self._has_text = False
        self._has_thought = False
        self._is_past_calls = False
        self._is_wrapped = False
        self._events: list[Event] = []
        self._calls: ToolCallParser | None = None
        if layout.syntax is not None:
            self._calls = ToolCallParser(index, layout.syntax, {tool.name: tool for tool in layout.tools}, new_id)
        begun = layout.thinking is not None and layout.thinking.begun
        self._state: Literal["start", "thought", "text", "calls", "after"] = "thought" if begun else "start"

    def feed(self, text: str, logprobs: Sequence[TokenLogprob] = ()) -> list[Event]:
        """Parse more text (whole characters) and the tokens that end in it; return the new events."""
        self._logprobs.push(logprobs)
        self._buffer += text
        states = {
            "start": self._start,
            "thought": self._thought,
            "text": self._text,
            "calls": self._call,
            "after": self._after,
        }
        while states[self._state]():
            pass
        return self._taken()

    def finish(self, reason: Literal["stop", "length"]) -> list[Event]:
        """End the choice; the last event is ``ChoiceFinished``. Nothing may be fed afterwards."""
        if self._state == "thought":
            self._think(self._buffer.strip())
        if self._state == "calls" and self._calls is not None:
            self._events += self._calls.finish()
            if not self._calls.num_calls:
                self._leave_calls(self._calls)
        # Where only calls are allowed, the rest is the beginning of a call that was cut off, not text.
        if self._state in {"start", "text"} and not self._layout.calls_only:
            self._say(self._buffer)
            rest = self._logprobs.rest()
            if rest:
                self._events.append(TextDelta(self._index, "", rest))
        called = self._calls is not None and self._calls.num_calls > 0
        how: FinishReason = self._layout.call_reason if called and reason == "stop" else reason
        return [*self._taken(), ChoiceFinished(self._index, how)]

    def _start(self) -> bool:
        """At the start of the answer a thought may open, or a wrapper, or calls."""
        text = self._buffer.lstrip()
        openings = self._layout.wrappers
        opening = self._layout.thinking.open.strip() if self._layout.thinking else ""
        if opening and text.startswith(opening):
            self._drop(len(self._buffer) - len(text) + len(opening))
            self._state = "thought"
            return True
        for wrapper in openings:
            if text.startswith(wrapper):
                self._drop(len(self._buffer) - len(text) + len(wrapper))
                self._is_wrapped = True
                self._state = "text"
                return True
        if any(candidate.startswith(text) for candidate in (opening, *openings) if candidate):
            return False
        # A syntax without a mark of its own begins where no wrapper does.
        bare = self._layout.syntax is not None and not self._layout.syntax.trigger
        self._state = "calls" if bare and not self._is_wrapped else "text"
        return True

    def _thought(self) -> bool:
        assert self._layout.thinking is not None
        if not self._has_thought:
            self._drop(len(self._buffer) - len(self._buffer.lstrip()))
        closing = self._layout.thinking.close.strip()
        thought, found, _ = self._buffer.partition(closing)
        if not found:
            kept = partial(self._buffer, closing)
            whole = self._buffer[: len(self._buffer) - kept]
            self._think(whole.rstrip())
            self._drop(len(whole.rstrip()))
            return False
        self._think(thought.rstrip())
        self._drop(len(thought) + len(closing))
        self._state = "after"
        return True

    def _after(self) -> bool:
        """After a thought: space that separates it from the answer belongs to neither."""
        self._drop(len(self._buffer) - len(self._buffer.lstrip()))
        if not self._buffer:
            return False
        self._state = "start"
        return True

    def _text(self) -> bool:
        syntax = self._layout.syntax
        if syntax is None or not syntax.trigger or self._is_past_calls:
            return self._say_but_wrappers()
        if self._has_text and not syntax.anywhere:
            return self._say_but_wrappers()
        place = self._buffer.find(syntax.trigger) if syntax.anywhere else -1
        if not syntax.anywhere:
            lead = self._buffer.lstrip()
            if lead.startswith(syntax.trigger):
                place = len(self._buffer) - len(lead)
            elif syntax.trigger.startswith(lead):
                return False
        if place >= 0:
            self._say(self._buffer[:place].rstrip())
            self._gap = self._buffer[: len(self._buffer) - len(self._buffer.lstrip())]
            self._drop(len(self._gap))
            self._drop(len(syntax.trigger))
            self._state = "calls"
            return True
        kept = partial(self._buffer, syntax.trigger)
        self._say(self._buffer[: len(self._buffer) - kept].rstrip())
        return False

    def _say_but_wrappers(self) -> bool:
        """Emit text that cannot be the beginning of a wrapper; drop a complete wrapper."""
        places = [(self._buffer.find(wrapper), wrapper) for wrapper in self._layout.wrappers if wrapper in self._buffer]
        if places:
            place, wrapper = min(places)
            self._say(self._buffer[:place])
            self._drop(len(wrapper))
            return True
        kept = max((partial(self._buffer, wrapper) for wrapper in self._layout.wrappers), default=0)
        self._say(self._buffer[: len(self._buffer) - kept])
        return False

    def _call(self) -> bool:
        assert self._calls is not None
        self._events += self._calls.feed(self._buffer)
        self._drop(len(self._buffer))
        if not self._calls.is_over:
            return False
        self._leave_calls(self._calls)
        return bool(self._buffer)

    def _leave_calls(self, calls: ToolCallParser) -> None:
        """Continue with text: what follows the calls, or what turned out not to be a call."""
        self._buffer = calls.rest.lstrip() if calls.num_calls else self._gap + calls.rest
        self._is_past_calls = True
        self._state = "text"

    def _say(self, text: str) -> None:
        """Emit the beginning of the buffer as the answer."""
        if text:
            self._has_text = True
            self._events.append(TextDelta(self._index, text, self._logprobs.take(text)))
            self._buffer = self._buffer[len(text) :]

    def _think(self, text: str) -> None:
        if text:
            self._has_thought = True
            self._events.append(ReasoningDelta(self._index, text))

    def _drop(self, size: int) -> None:
        self._logprobs.take(self._buffer[:size])
        self._buffer = self._buffer[size:]

    def _taken(self) -> list[Event]:
        events, self._events = self._events, []
        return events
