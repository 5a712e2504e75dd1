"""What the toolkit keeps in a message in addition to the fields of chat completions, and who may get it.

* Reasoning, under the names that servers give it. DeepSeek, Kimi and Qwen refuse the results of tools without the
  reasoning that led to the calls; OpenAI's chat completions refuse the fields.
* ``response_items``: the items of a response, as ``{"by": ..., "items": [...]}``. Their sealed reasoning can be opened by
  the endpoint and model alone that ``by`` names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

REASONING = ("reasoning_content", "reasoning", "reasoning_details")
ITEMS = "response_items"

Message = dict[str, Any]


def plain_messages(messages: Sequence[Mapping[str, Any]], *, with_reasoning: bool = False) -> list[Message]:
    """Return the messages for chat completions.

    ``with_reasoning`` leaves the reasoning of turns that call tools unchanged; that of other turns is never sent again.
    """
    kept: list[Message] = []
    for turn in _turns(messages):
        has_calls = any(message.get("tool_calls") for message in turn)
        for message in turn:
            # Reasoning that came as items is a summary for people.
            keeps = with_reasoning and has_calls and ITEMS not in message
            dropped = {ITEMS} if keeps else {ITEMS, *REASONING}
            kept.append({key: value for key, value in message.items() if key not in dropped})
    return kept


def reasoning_text(message: Mapping[str, Any]) -> str | None:
    """Return the reasoning of a message as text, or None if it has none."""
    for name in REASONING[:2]:
        if isinstance(text := message.get(name), str) and text:
            return text
    details: Any = message.get(REASONING[2])
    parts = cast("Sequence[Any]", details) if isinstance(details, Sequence) and not isinstance(details, str) else ()
    texts = [_detail_text(part) for part in parts]
    return "".join(texts) or None


def _detail_text(part: Any) -> str:
    if not isinstance(part, Mapping):
        return ""
    fields = cast("Mapping[str, Any]", part)
    text = fields.get("text") or fields.get("summary")
    return text if isinstance(text, str) else ""


def _turns(messages: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    turns: list[list[Mapping[str, Any]]] = [[]]
    for message in messages:
        if message.get("role") == "user":
            turns.append([])
        turns[-1].append(message)
    return turns
