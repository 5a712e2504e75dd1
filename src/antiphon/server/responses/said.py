"""What was said and done in a response so far, as the items that its next prompt is made of."""

from typing import Any, Literal

from antiphon.protocol.events import ReasoningDelta, RefusalDelta, TextDelta

Json = dict[str, Any]
_Kind = Literal["text", "reasoning", "refusal"]


class Said:
    """Grows with the events of the model, and with the items of tools that were run."""

    def __init__(self) -> None:
        self._items: list[Json] = []
        self._kind: _Kind = "text"
        self._pieces: list[str] = []

    def hear(self, event: object) -> None:
        """Take in an event of the model; of those of calls, nothing."""
        match event:
            case TextDelta():
                self._grow("text", event.text)
            case ReasoningDelta():
                self._grow("reasoning", event.text)
            case RefusalDelta():
                self._grow("refusal", event.text)
            case _:
                pass

    def add(self, item: Json) -> None:
        """Take in an item that the server made."""
        self._settle()
        self._items.append(item)

    def items(self) -> tuple[Json, ...]:
        """Return all items in the order in which they came."""
        self._settle()
        return tuple(self._items)

    def _grow(self, kind: _Kind, text: str) -> None:
        if kind != self._kind:
            self._settle()
            self._kind = kind
        self._pieces.append(text)

    def _settle(self) -> None:
        text = "".join(self._pieces)
        self._pieces.clear()
        if not text:
            return
        if self._kind == "reasoning":
            self._items.append(
                {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": text}]}
            )
            return
        part: Json = (
            {"type": "output_text", "text": text} if self._kind == "text" else {"type": "refusal", "refusal": text}
        )
        self._items.append({"type": "message", "role": "assistant", "content": [part]})
