"""Checks across the messages of a conversation, with OpenAI's errors.

Paths are written ``messages.[2].role`` here, as the API writes them in these older errors.
"""

from collections.abc import Sequence
from typing import Any

from antiphon.protocol import problems

JsonMessage = dict[str, Any]


def check_history(messages: Sequence[JsonMessage]) -> None:
    """Raise ``ApiError`` 400 for tool calls and results that do not match."""
    waiting: list[str] | None = None  # ids of the last assistant's calls without a result; None: no calls to answer
    for index, message in enumerate(messages):
        if message["role"] == "tool":
            _answer(index, message["tool_call_id"], waiting)
            continue
        if waiting:
            raise _unanswered(waiting)
        waiting = _call_ids(index, message)
    if waiting:
        raise _unanswered(waiting)


def check_contents(messages: Sequence[JsonMessage]) -> None:
    """Raise ``ApiError`` 400 for a message that says nothing. An assistant may call or refuse instead."""
    for index, message in enumerate(messages):
        if message.get("content") is not None or message["role"] == "function":
            continue
        speaks = any(message.get(key) is not None for key in ("tool_calls", "function_call", "refusal"))
        if message["role"] != "assistant" or not speaks:
            raise problems.bad_request(
                "Invalid value for 'content': expected a string, got null.", f"messages.[{index}].content"
            )


def _answer(index: int, call_id: str, waiting: list[str] | None) -> None:
    if waiting is None:
        raise problems.bad_request(
            "Invalid parameter: messages with role 'tool' must be a response to a preceeding message with 'tool_calls'.",
            f"messages.[{index}].role",
        )
    if call_id not in waiting:
        raise problems.bad_request(
            f"Invalid parameter: 'tool_call_id' of '{call_id}' not found in 'tool_calls' of previous message.",
            f"messages.[{index}].tool_call_id",
        )
    waiting.remove(call_id)


def _call_ids(index: int, message: JsonMessage) -> list[str] | None:
    calls = message.get("tool_calls")
    if not calls:
        return None
    if message.get("function_call") is not None:
        raise problems.bad_request(
            "Invalid parameter: an assistant message calls in 'tool_calls' or in the older 'function_call', not in both.",
            f"messages.[{index}].function_call",
        )
    ids: list[str] = []
    for position, call in enumerate(calls):
        if call["id"] in ids:
            raise problems.bad_request(
                f"Duplicate value for 'id' of '{call['id']}' in 'messages[{index}].tool_calls'.",
                f"messages.[{index}].tool_calls.[{position}].id",
            )
        ids.append(call["id"])
    return ids


def _unanswered(ids: Sequence[str]) -> Exception:
    return problems.bad_request(
        "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'. "
        f"The following tool_call_ids did not have response messages: {', '.join(ids)}",
        "messages",
    )


def check_mentions_json(messages: Sequence[JsonMessage]) -> None:
    """Raise ``ApiError`` 400 unless some message has the word JSON in it: without, a model tends to emit blanks forever."""
    if not any("json" in "".join(texts(message)).lower() for message in messages):
        raise problems.bad_request(
            "'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'.",
            "messages",
        )


def texts(message: JsonMessage) -> list[str]:
    """Return the message's text parts."""
    content = message.get("content")
    if content is None:
        return []
    if isinstance(content, str):
        return [content]
    parts: list[JsonMessage] = content
    return [part["text"] for part in parts if part["type"] == "text"]
