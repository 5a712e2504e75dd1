"""What servers send in place of what the API documents, read as what it means.

An answer that holds no completion, under status 200 all the same, is an OutputError with the beginning of its body.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from openai import BaseModel
from openai.types.chat import ChatCompletion, ChatCompletionMessage

from antiphon.toolkit.errors import OutputError

_SHOWN = 300
_REASONS = {
    **dict.fromkeys(("stop", "eos", "eos_token", "end_turn", "stop_sequence", "complete", "completed"), "stop"),
    **dict.fromkeys(("length", "max_tokens", "max_output_tokens", "model_length"), "length"),
    **dict.fromkeys(("tool_calls", "tool_call", "tool_use"), "tool_calls"),
    **dict.fromkeys(("content_filter", "content-filter", "safety"), "content_filter"),
}


def finish_reason(value: Any) -> str | None:
    """Return the API's word for a finish reason; one that has none there stays as it is. None for no reason."""
    if not isinstance(value, str) or not value:
        return None
    return _REASONS.get(value.lower(), value)


def plain_text(content: Any) -> str | None:
    """Return the text of an answer's content, which may be a list of parts; None for no text."""
    if isinstance(content, Sequence) and not isinstance(content, str):
        parts = [_field(part, "text") for part in cast("Sequence[Any]", content)]
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
    reason: Any = first.finish_reason
    if isinstance(reason, str) and reason.lower() == "error":
        raise no_answer("a finished completion", value, text=plain_text(message.content) or "")
    first.finish_reason = finish_reason(reason)
    message.content = plain_text(message.content)
    return value


def function_calls(message: ChatCompletionMessage) -> list[tuple[str, str, str]]:
    """Return the calls of functions as (id, name, arguments): each id is there and differs from the others."""
    calls: list[tuple[str, str, str]] = []
    for number, call in enumerate(cast("Sequence[Any]", message.tool_calls or ())):
        function = _field(call, "function")
        if function is None:
            continue
        arguments: Any = _field(function, "arguments")
        if not isinstance(arguments, str):
            arguments = "" if arguments is None else json.dumps(arguments, ensure_ascii=False)
        id_ = str(_field(call, "id") or f"call_{number}")
        if any(id_ == earlier for earlier, _, _ in calls):
            id_ = f"{id_}_{number}"
        calls.append((id_, str(_field(function, "name") or ""), arguments))
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


def _field(value: Any, key: str) -> Any:
    return cast("Mapping[str, Any]", value).get(key) if isinstance(value, Mapping) else getattr(value, key, None)
