"""Compaction: a long conversation becomes a summary that the model writes itself.

The summary travels sealed, as an item of the type ``compaction``; only the server that made it can read it.
"""

from typing import Any

import msgspec

from antiphon.protocol import problems
from antiphon.protocol.chat import ChatRequest, Message, ToolChoice
from antiphon.protocol.responses.item_fields import kind_of

Json = dict[str, Any]
DEFAULT_THRESHOLD_SHARE = 0.75
"""Without ``compact_threshold``, compaction begins when the prompt takes this share of the model's context."""
_MAX_SUMMARY_TOKENS = 1024
_INSTRUCTION = (
    "Summarize the conversation above for a reader who will continue it without seeing it. Keep: what the user wants, "
    "the decisions and facts that later answers depend on (names, numbers, file paths, results of tools), and what is still "
    "to be done. Leave out greetings and repetition. Write the summary only."
)
_OPENING = "Summary of the conversation so far:\n"


class Compacting(msgspec.Struct, frozen=True):
    """The model begins to write a summary."""


class Compacted(msgspec.Struct, frozen=True):
    """The summary is written; ``text`` is what a later turn shows the model in place of the conversation."""

    text: str


def summary_request(chat: ChatRequest) -> ChatRequest:
    """Return the request whose answer is the summary of ``chat``'s conversation."""
    return msgspec.structs.replace(
        chat,
        messages=(*chat.messages, Message("user", _INSTRUCTION)),
        tools=(),
        tool_choice=ToolChoice("none"),
        response_format=None,
        logprobs=False,
        top_logprobs=0,
        max_tokens=_MAX_SUMMARY_TOKENS,
    )


def summary_text(written: str) -> str:
    """Return what replaces the conversation."""
    return _OPENING + written.strip()


def after_summary(chat: ChatRequest, summary: str) -> ChatRequest:
    """Return ``chat`` with the summary in place of all but its instructions and its last user message."""
    first = chat.messages[:1] if chat.messages[0].role in {"system", "developer"} else ()
    users = [at for at, message in enumerate(chat.messages) if message.role == "user"]
    last = chat.messages[users[-1] :] if users else ()
    return msgspec.structs.replace(chat, messages=(*first, Message("user", summary), *last))


def without_trigger(items: tuple[Json, ...]) -> tuple[tuple[Json, ...], bool]:
    """Return the items without a final ``compaction_trigger``, and whether there was one. ``ApiError`` 400 for one elsewhere."""
    places = [at for at, item in enumerate(items) if kind_of(item) == "compaction_trigger"]
    if not places:
        return items, False
    if places != [len(items) - 1]:
        raise problems.bad_request(
            "An item of type 'compaction_trigger' must be the final input item.",
            f"input[{places[0]}].type",
            "invalid_value",
        )
    return items[:-1], True


def threshold(entries: list[Json], context_length: int | None) -> int | None:
    """Return the tokens of prompt from which ``context_management`` compacts; None: never."""
    for entry in entries:
        if entry.get("compact_threshold") is not None:
            return int(entry["compact_threshold"])
        if context_length:
            return round(DEFAULT_THRESHOLD_SHARE * context_length)
    return None
