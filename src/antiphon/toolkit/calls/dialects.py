"""What servers send in place of what the API documents, read as what it means.

An answer that holds no completion, under status 200 all the same, is an OutputError with the beginning of its body.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from openai import BaseModel
from openai.types.chat import ChatCompletion, ChatCompletionMessage

from antiphon.toolkit.errors import OutputError
from antiphon.wire.finish_reasons import finish_reason as wire_reason
from antiphon.wire.finish_reasons import says_failure, says_nothing
from antiphon.wire.tool_call_deltas import fields_of_provider

_SHOWN = 300


def finish_reason(value: Any) -> str | None:
    """Return the API's word for a finish reason; one that has none there stays, as text. None for no reason."""
    if not isinstance(value, str | None):
        return json.dumps(value)
    if value is None or says_nothing(value):
        return None
    return wire_reason(value) or value


def failure(choice: Any) -> str | None:
    """Return why the server gave up on a choice, in its own words if it has any; None if it did not."""
    reason = _field(choice, "finish_reason")
    if not isinstance(reason, str) or not says_failure(reason):
        return None
    error = _field(choice, "error")
    said = _field(error, "message") or error
    return said if isinstance(said, str) else f"finish_reason {reason!r}"


def plain_text(content: Any) -> str | None:
    """Return the text of an answer's content, which may be a part or a list of parts; None for no text."""
    if isinstance(content, Mapping):
        content = [content]
    if isinstance(content, Sequence) and not isinstance(content, str):
        parts = [part if isinstance(part, str) else _field(part, "text") for part in cast("Sequence[Any]", content)]
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else None


def require_completion(value: Any) -> ChatCompletion:
    """Return ``value`` as a completion whose first choice has a message, with the API's words and plain text.

    Raises OutputError, with the beginning of the body, for anything else.
    """
    choices = getattr(value, "choices", None)
    first = cast("list[Any]", choices)[0] if isinstance(choices, list) and choices else None
    message = getattr(first, "message", None)
    if not isinstance(value, ChatCompletion) or not isinstance(message, ChatCompletionMessage) or first is None:
        raise no_answer("a completion", value)
    if (why := failure(first)) is not None:
        raise no_answer("a finished completion", why, text=plain_text(message.content) or "")
    first.finish_reason = finish_reason(first.finish_reason)
    message.content = plain_text(message.content)
    return value


@dataclass(frozen=True, slots=True)
class WrittenCall:
    """A call of a tool as the model wrote it: ``text`` is the arguments' JSON, or the text for a custom tool.

    ``more`` are fields that the API does not name and that a server may want back, as a signature of its reasoning.
    """

    id: str
    name: str
    text: str
    is_custom: bool
    more: Mapping[str, Any]


def written_calls(message: ChatCompletionMessage) -> list[WrittenCall]:
    """Return the calls of tools in a message: each id is there and differs from the others."""
    calls: list[WrittenCall] = []
    made: Any = message.tool_calls or ()
    for number, call in enumerate(cast("Sequence[Any]", [made] if isinstance(made, Mapping) else made)):
        custom, function = _field(call, "custom"), _field(call, "function")
        if custom is None and function is None and _field(call, "name"):
            function = call  # some servers send name and arguments without "function" around them
        named = function if custom is None else custom
        if named is None:
            continue
        text: Any = _field(named, "arguments" if custom is None else "input")
        if not isinstance(text, str):
            text = "" if text is None else json.dumps(text, ensure_ascii=False)
        id_ = str(_field(call, "id") or f"call_{number}")
        if any(id_ == earlier.id for earlier in calls):
            id_ = f"{id_}_{number}"
        more = {} if function is call else fields_of_provider(_fields(call))
        calls.append(WrittenCall(id_, str(_field(named, "name") or ""), text, custom is not None, more))
    return calls


def no_answer(wanted: str, value: Any, *, text: str = "") -> OutputError:
    """Return the error for a body that is not what was asked for."""
    if isinstance(value, BaseModel):
        body: Any = value.to_dict(mode="json", warnings=False)
        error = _field(body, "error")
        said = _field(error, "message") if isinstance(error, Mapping) else error
        shown = said if isinstance(said, str) else json.dumps(body, ensure_ascii=False)
    else:
        shown = str(value)
    return OutputError(
        f"The server answered without {wanted}: {shown[:_SHOWN]}",
        hint="check OPENAI_BASE_URL and what answers there: antiphon doctor",
        text=text,
    )


def _fields(value: Any) -> Mapping[str, Any]:
    return (
        value.to_dict(mode="json", warnings=False) if isinstance(value, BaseModel) else cast("Mapping[str, Any]", value)
    )


def _field(value: Any, key: str) -> Any:
    return cast("Mapping[str, Any]", value).get(key) if isinstance(value, Mapping) else getattr(value, key, None)
