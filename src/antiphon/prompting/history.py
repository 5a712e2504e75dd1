"""The conversation so far as a template takes it, tool calls and their results included."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from antiphon.prompting.escaping import RequestEscaper
from antiphon.prompting.templates.adaptations import Turn
from antiphon.prompting.tool_calls.syntax import IdStyle, ToolSyntax
from antiphon.protocol.chat import Message, ToolCall

_RESULT_ROLES = frozenset({"tool", "function"})


def native_turns(messages: Sequence[Message], syntax: ToolSyntax) -> list[Turn]:
    """Return turns for a template that writes calls and results itself.

    Where the template takes arguments as an object, arguments that are not a JSON object stay text; see ``RawArguments``.
    """
    turns: list[Turn] = []
    ids: dict[str, str] = {}
    names: dict[str, str] = {}
    num_calls = 0
    for message in in_order_of_calls(messages):
        turn = plain_turn(message)
        if message.tool_calls:
            calls: list[dict[str, Any]] = []
            for call in message.tool_calls:
                shown = _styled(call, num_calls, syntax.ids)
                num_calls += 1
                ids[call.id] = ids[call.function.name] = shown
                names[call.id] = call.function.name
                arguments: Any = call.function.arguments
                if syntax.arguments == "object":
                    arguments = _as_object(call)
                function = {"name": call.function.name, "arguments": arguments}
                calls.append({"id": shown, "type": "function", "function": function})
            turn["tool_calls"] = calls
        if message.role in _RESULT_ROLES:
            key = message.tool_call_id or message.name or ""
            turn |= {"role": "tool", "tool_call_id": ids.get(key, key), "name": names.get(key, message.name or "")}
        turns.append(turn)
    return turns


def written_turns(messages: Sequence[Message], syntax: ToolSyntax) -> list[Turn]:
    """Return turns for a template without tools: calls in the assistant's text, results in a user's turn."""
    turns: list[Turn] = []
    results: list[str] = []

    def close_results() -> None:
        if results:
            turns.append({"role": "user", "content": "\n".join(results)})
            results.clear()

    for message in in_order_of_calls(messages):
        turn = plain_turn(message)
        if message.role in _RESULT_ROLES:
            results.append(f"<tool_response>\n{turn['content']}\n</tool_response>")
            continue
        close_results()
        if message.tool_calls:
            calls = syntax.write([(call.function.name, _as_text(call)) for call in message.tool_calls])
            turn["content"] = f"{turn['content']}\n{calls}" if turn["content"] else calls
        turns.append(turn)
    close_results()
    return turns


def plain_turn(message: Message) -> Turn:
    """Return role and text. A participant's name precedes their words, since few templates know names."""
    text = (message.content or "") + (message.refusal or "")
    if message.name and message.role not in _RESULT_ROLES:
        text = f"{message.name}: {text}"
    return {"role": message.role, "content": text}


def in_order_of_calls(messages: Sequence[Message]) -> list[Message]:
    """Return the messages with the results of each turn in the order of its calls.

    Clients may send results in any order, since ``tool_call_id`` says which call each one answers; most templates
    show no ids, and a model matches results to calls by their order.
    """
    ordered: list[Message] = []
    results: list[Message] = []
    order: dict[str, int] = {}
    for message in messages:
        if message.role in _RESULT_ROLES:
            results.append(message)
            continue
        ordered += _sorted(results, order)
        results.clear()
        order = {call.id: place for place, call in enumerate(message.tool_calls)}
        ordered.append(message)
    return ordered + _sorted(results, order)


def _sorted(results: Sequence[Message], order: Mapping[str, int]) -> list[Message]:
    return sorted(results, key=lambda result: order.get(result.tool_call_id or "", len(order)))


class RawArguments:
    """Shows arguments that are not a JSON object, such as those of a call that was cut off, as the text that they are.

    A template that takes an object would fail on a text. It gets an object with one key and one value instead, both
    characters that occur nowhere else in the request. In the rendered text the whole object is replaced by the
    arguments; a template that writes keys and values in a form of its own shows them as a value named ``arguments``.
    """

    def __init__(self, escaper: RequestEscaper) -> None:
        self._escaper = escaper
        self._key = ""
        self._texts: dict[str, str] = {}

    def hide(self, turns: Sequence[Turn]) -> None:
        """Replace arguments that are a text, in escaped turns, by such an object."""
        places: dict[str, str] = {}
        for turn in turns:
            for call in turn.get("tool_calls") or ():
                text = call["function"]["arguments"]
                if isinstance(text, str):
                    self._key = self._key or self._escaper.unused_character()
                    if text not in places:
                        places[text] = self._escaper.unused_character()
                    call["function"]["arguments"] = {self._key: places[text]}
        self._texts = {character: text for text, character in places.items()}

    def show(self, rendered: str) -> str:
        """Return the rendered text with the arguments in it."""
        if not self._texts:
            return rendered
        whole = re.compile(rf"\{{\s*([\"']){self._key}\1\s*:\s*([\"'])(.)\2\s*\}}", re.DOTALL)
        characters = {self._key, *self._texts}
        inner = re.compile(f'("?)([{min(characters)}-{max(characters)}])\\1')
        return inner.sub(self._part, whole.sub(lambda found: self._texts.get(found[3], found[0]), rendered))

    def _part(self, found: re.Match[str]) -> str:
        text = "arguments" if found[2] == self._key else self._texts.get(found[2])
        if text is None:
            return found[0]
        return json.dumps(text, ensure_ascii=False) if found[1] else text


def _as_text(call: ToolCall) -> str:
    return call.function.arguments or ("" if call.kind == "custom" else "{}")


def _as_object(call: ToolCall) -> Any:
    """Return a call's arguments as an object, or as the text that they are if they are not one."""
    if call.kind == "custom":
        return {"input": call.function.arguments}
    try:
        arguments = json.loads(_as_text(call))
        json.dumps(arguments, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return call.function.arguments
    return cast("dict[str, Any]", arguments) if isinstance(arguments, dict) else call.function.arguments


def _styled(call: ToolCall, number: int, style: IdStyle) -> str:
    forms: dict[IdStyle, Callable[[], str]] = {
        "any": lambda: call.id,
        "nine": lambda: hashlib.sha256(call.id.encode()).hexdigest()[:9],
        "functions": lambda: f"functions.{call.function.name}:{number}",
    }
    return forms[style]()
