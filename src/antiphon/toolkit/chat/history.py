"""A conversation as a value: its system prompt, its turns, and what of them is sent.

A turn is a message of the user and all that answers it, calls of tools and their results included. Turns are kept or
left out whole, so that a call is never parted from its result. Everything stays in the history; ``start`` marks from
where on turns are sent, and moves forward only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from antiphon.toolkit.chat.attachments import ContentPart
from antiphon.toolkit.errors import HistoryError
from antiphon.toolkit.tokens.text_estimate import call_texts, is_image, message_parts

Message = dict[str, Any]
Content = str | Sequence[ContentPart]
FORMAT = "antiphon-chat/1"
# What is sent for an answer without a word: several APIs refuse an empty message, and some refuse null.
EMPTY_ANSWER = "(empty answer)"


@dataclass(frozen=True, slots=True)
class Turn:
    """Messages in the API's form, in order; each call of a tool is answered within the turn.

    Raises HistoryError if one is not. A pinned turn is always sent.
    """

    messages: tuple[Message, ...]
    is_pinned: bool = False

    def __post_init__(self) -> None:
        called = [call["id"] for message in self.messages for call in message.get("tool_calls") or ()]
        answered = [message["tool_call_id"] for message in self.messages if message.get("role") == "tool"]
        if sorted(called) != sorted(answered):
            raise HistoryError(
                f"A turn has calls of tools {called!r} and results for {answered!r}",
                hint="give each call exactly one message with role 'tool', within the same turn",
            )


@dataclass(frozen=True, slots=True)
class History:
    """An immutable conversation; its methods return new ones.

    ``summary`` replaces turns before ``start``. ``frame`` is sent before and after the system prompt. ``reminder`` is added to each message of the user when it is sent, the
    same for every turn, so that what was sent before stays a prefix of what is sent next.
    """

    system: str | None = None
    turns: tuple[Turn, ...] = ()
    start: int = 0
    summary: str | None = None
    reminder: str | None = None
    frame: str | None = None

    def append(self, turn: Turn) -> History:
        return replace(self, turns=(*self.turns, turn))

    def undo(self) -> History:
        """Return the conversation without its last turn; raises HistoryError if there is none that is sent."""
        if len(self.turns) <= self.start:
            raise HistoryError("There is no turn to undo")
        return replace(self, turns=self.turns[:-1])

    def pin(self, index: int) -> History:
        """Mark a turn as always sent; ``index`` counts as in a list."""
        turns = list(self.turns)
        turns[index] = replace(turns[index], is_pinned=True)
        return replace(self, turns=tuple(turns))

    def replace_last(self, turn: Turn) -> History:
        return replace(self, turns=(*self.turns[:-1], turn))

    def sent_turns(self, start: int | None = None) -> list[Turn]:
        """Return the turns that are sent, if those before ``start`` (the history's own) are left out."""
        start = self.start if start is None else start
        return [turn for index, turn in enumerate(self.turns) if index >= start or turn.is_pinned]

    def messages(self, pending: Sequence[Message] = (), *, start: int | None = None) -> list[Message]:
        """Return what is sent, ``pending`` messages of the turn under way at its end."""
        is_begun = self.frame is not None and (self.system or "").startswith(self.frame)
        parts = (None if is_begun else self.frame, self.system, self._summary_text(), self.frame)
        system = "\n\n".join(part for part in parts if part)
        head: list[Message] = [{"role": "system", "content": system}] if system else []
        body = [message for turn in self.sent_turns(start) for message in turn.messages]
        return [*head, *(self._as_sent(message) for message in (*body, *pending))]

    def markdown(self) -> str:
        """Return the whole conversation, also what is no longer sent, as Markdown."""
        sections = [("System", self.system)] if self.system else []
        for turn in self.turns:
            sections.extend(_section(message) for message in turn.messages)
        return "\n\n".join(f"## {title}\n\n{text}" for title, text in sections) + "\n"

    def to_json(self) -> dict[str, Any]:
        turns = [{"messages": list(turn.messages), "is_pinned": turn.is_pinned} for turn in self.turns]
        values = {"system": self.system, "start": self.start, "summary": self.summary, "reminder": self.reminder}
        values["frame"] = self.frame
        return {"format": FORMAT, **values, "turns": turns}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> History:
        """Read what ``to_json`` gave; raises HistoryError for anything else."""
        try:
            if value["format"] != FORMAT:
                raise HistoryError(f"A chat was saved in the format {value['format']!r}; this version reads {FORMAT!r}")
            turns = tuple(Turn(tuple(turn["messages"]), turn["is_pinned"]) for turn in value["turns"])
            frame = value.get("frame")
            return cls(value["system"], turns, value["start"], value["summary"], value["reminder"], frame)
        except (KeyError, TypeError) as error:
            raise HistoryError(f"This is not a saved chat: {error!r}") from error

    def _summary_text(self) -> str | None:
        return None if self.summary is None else f"Summary of the earlier conversation:\n{self.summary}"

    def _as_sent(self, message: Message) -> Message:
        if message.get("role") == "assistant" and not message.get("content") and not message.get("tool_calls"):
            return {**message, "content": message.get("refusal") or EMPTY_ANSWER}
        if self.reminder is None or message.get("role") != "user":
            return message
        content = message["content"]
        if isinstance(content, str):
            return {**message, "content": f"{content}\n\n{self.reminder}"}
        return {**message, "content": [*cast("list[Any]", content), {"type": "text", "text": self.reminder}]}


def write_chat(path: str | Path, value: Mapping[str, Any]) -> None:
    """Write a chat as JSON, whole or not at all."""
    path = Path(path)
    try:
        text = json.dumps(value, ensure_ascii=False, indent=1)
    except TypeError as error:
        raise HistoryError(f"This chat cannot be written as JSON: {error}") from error
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def read_chat(path: str | Path) -> dict[str, Any]:
    """Read what ``write_chat`` wrote; raises HistoryError if it is not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise HistoryError(f"{str(path)!r} is not a saved chat: {error}") from error


def _section(message: Message) -> tuple[str, str]:
    title = str(message["role"]).capitalize()
    parts = [_shown(part) for part in message_parts(message)]
    for call in message.get("tool_calls") or ():
        name, text = call_texts(call)
        parts.append(f"`{name}({text})`")
    if message.get("refusal"):
        parts.append(f"*(refusal)* {message['refusal']}")
    return title, "\n\n".join(part for part in parts if part)


def _shown(part: Mapping[str, Any]) -> str:
    if is_image(part):
        return "*(image)*"
    kind = str(part.get("type", "text"))
    return str(part.get("text") or "") if kind == "text" else f"*({kind})*"
