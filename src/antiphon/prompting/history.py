"""The conversation so far as a template takes it, tool calls and results included."""

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any, cast

from antiphon.prompting.templates.adaptations import Turn
from antiphon.prompting.tool_calls.syntax import IdStyle, ToolSyntax
from antiphon.protocol.chat import Message, ToolCall
from antiphon.protocol.errors import ApiError


def native_turns(messages: Sequence[Message], syntax: ToolSyntax) -> list[Turn]:
    """Return turns for a template that writes calls and results itself."""
    turns: list[Turn] = []
    ids: dict[str, str] = {}
    names: dict[str, str] = {}
    for place, message in enumerate(messages):
        turn = plain_turn(message)
        if message.tool_calls:
            calls: list[dict[str, Any]] = []
            for number, call in enumerate(message.tool_calls):
                shown = _styled(call, len(ids), syntax.ids)
                ids[call.id] = ids[call.function.name] = shown
                names[call.id] = call.function.name
                arguments: Any = call.function.arguments
                if syntax.arguments == "object":
                    arguments = _parsed(call, f"messages[{place}].tool_calls[{number}].function.arguments")
                function = {"name": call.function.name, "arguments": arguments}
                calls.append({"id": shown, "type": "function", "function": function})
            turn["tool_calls"] = calls
        if message.role in {"tool", "function"}:
            key = message.tool_call_id or message.name or ""
            turn |= {"role": "tool", "tool_call_id": ids.get(key, key), "name": names.get(key, message.name or "")}
        turns.append(turn)
    return turns


def written_turns(messages: Sequence[Message], syntax: ToolSyntax) -> list[Turn]:
    """Return turns for a template without tools: calls in the assistant's words, results in the user's."""
    turns: list[Turn] = []
    for message in messages:
        turn = plain_turn(message)
        if message.tool_calls:
            calls = syntax.write([(call.function.name, call.function.arguments) for call in message.tool_calls])
            turn["content"] = f"{turn['content']}\n{calls}" if turn["content"] else calls
        if message.role in {"tool", "function"}:
            result = f"<tool_response>\n{turn['content']}\n</tool_response>"
            if turns and turns[-1].get("is_result"):
                turns[-1]["content"] += f"\n{result}"
                continue
            turn = {"role": "user", "content": result, "is_result": True}
        turns.append(turn)
    return [{key: value for key, value in turn.items() if key != "is_result"} for turn in turns]


def plain_turn(message: Message) -> Turn:
    """Return role and text. A participant's name stands before their words, since few templates know names."""
    text = (message.content or "") + (message.refusal or "")
    if message.name and message.role not in {"tool", "function"}:
        text = f"{message.name}: {text}"
    return {"role": message.role, "content": text}


def _parsed(call: ToolCall, param: str) -> Any:
    if call.kind == "custom":
        return {"input": call.function.arguments}
    try:
        arguments = json.loads(call.function.arguments or "{}")
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        raise ApiError(
            400,
            f"Invalid '{param}': this model's chat template shows arguments as a JSON object, "
            f"but got {call.function.arguments!r}.",
            param=param,
        )
    return cast("dict[str, Any]", arguments)


def _styled(call: ToolCall, number: int, style: IdStyle) -> str:
    forms: dict[IdStyle, Callable[[], str]] = {
        "any": lambda: call.id,
        "nine": lambda: hashlib.sha256(call.id.encode()).hexdigest()[:9],
        "functions": lambda: f"functions.{call.function.name}:{number}",
    }
    return forms[style]()
