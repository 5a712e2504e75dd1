"""Chat completions in the form of the Responses API, there and back.

Stateless: ``store`` is false, the whole conversation is sent each time, and the reasoning comes sealed
(``reasoning.encrypted_content``) and is sent back unchanged. So a conversation can be forked, undone, trimmed and saved
as with chat completions. Follows OpenAI's guide "Migrate to the Responses API".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from openai.types.chat import ChatCompletion

from antiphon.toolkit.clients import Endpoint
from antiphon.toolkit.messages import ITEMS

Json = dict[str, Any]

# Parameters that chat completions alone have.
CHAT_ONLY = frozenset(
    {"stop", "seed", "presence_penalty", "frequency_penalty", "logit_bias", "n", "audio", "modalities"}
) | {
    "prediction",
    "web_search_options",
    "functions",
    "function_call",
}
_SEALED = "reasoning.encrypted_content"
_LOGPROBS = "message.output_text.logprobs"
_LIMITS = ("max_completion_tokens", "max_tokens")
_TRANSLATED = {
    *("messages", "tools", "tool_choice", "response_format", "verbosity", "reasoning_effort", "reasoning"),
    *("logprobs", "stream_options", "include", "store", "text", *_LIMITS),
}
_FINISH = {"max_output_tokens": "length", "content_filter": "content_filter"}


def responses_request(request: Mapping[str, Any], endpoint: Endpoint) -> Json:
    """Return the keyword arguments of ``client.responses.create`` for those of ``client.chat.completions.create``."""
    messages = cast("Sequence[Mapping[str, Any]]", request["messages"])
    made: Json = {key: value for key, value in request.items() if key not in _TRANSLATED}
    if messages and messages[0].get("role") in {"system", "developer"}:
        made["instructions"] = messages[0]["content"]
        messages = messages[1:]
    made["input"] = _items(messages, sealer(request["model"], endpoint))
    made["store"] = request.get("store") or False
    made["include"] = list(dict.fromkeys([*(request.get("include") or ()), _SEALED]))
    limit = next((request[name] for name in _LIMITS if request.get(name) is not None), None)
    if limit is not None:
        made["max_output_tokens"] = limit
    if request.get("tools"):
        made["tools"] = [_tool(tool) for tool in request["tools"]]
    if request.get("tool_choice") is not None:
        made["tool_choice"] = _tool_choice(request["tool_choice"])
    text: Json = {**(request.get("text") or {}), **_text(request)}
    if text:
        made["text"] = text
    reasoning: Json = {**_effort(request), **(request.get("reasoning") or {})}
    if reasoning:
        made["reasoning"] = reasoning
    if request.get("logprobs"):
        made["include"].append(_LOGPROBS)
    return made


def sealer(model: str, endpoint: Endpoint) -> str:
    """Name who can open what this model seals at this endpoint."""
    return f"{model} at {endpoint.base_url}"


def completion_of(response: Any, sealed_by: str, items: Sequence[Json] = ()) -> ChatCompletion | None:
    """Return a response as a chat completion whose message keeps the response's items, or None if it is not finished.

    ``items`` are those that a stream brought, for a server whose last event does not repeat them.
    """
    body = cast("Json", response.to_dict(mode="json", warnings=False)) if hasattr(response, "to_dict") else {}
    output: list[Json] = body.get("output") or list(items)
    status = body.get("status") or "completed"
    if body.get("object") != "response" or status not in {"completed", "incomplete"}:
        return None
    message = _message(output)
    message[ITEMS] = {"by": sealed_by, "items": output}
    details: Json = body.get("incomplete_details") or {}
    finish_reason = _FINISH.get(str(details.get("reason")), "length") if status == "incomplete" else None
    finish_reason = finish_reason or ("tool_calls" if message.get("tool_calls") else "stop")
    choice = {"index": 0, "message": message, "finish_reason": finish_reason, "logprobs": _logprobs(output)}
    whole: Json = {
        "id": body.get("id", ""),
        "object": "chat.completion",
        "created": int(body.get("created_at") or 0),
        "model": body.get("model", ""),
        "choices": [choice],
        "usage": _usage(body.get("usage")),
    }
    if body.get("service_tier"):
        whole["service_tier"] = body["service_tier"]
    return ChatCompletion.construct(**whole)


def _items(messages: Sequence[Mapping[str, Any]], sealed_by: str) -> list[Json]:
    items: list[Json] = []
    custom: set[str] = set()
    for message in messages:
        kept = cast("Mapping[str, Any]", message.get(ITEMS) or {})
        calls = cast("Sequence[Mapping[str, Any]]", message.get("tool_calls") or ())
        custom |= {call["id"] for call in calls if "custom" in call}
        if message["role"] == "tool":
            kind = "custom_tool_call_output" if message["tool_call_id"] in custom else "function_call_output"
            output = _content(message["content"])
            items.append({"type": kind, "call_id": message["tool_call_id"], "output": output})
        elif kept.get("by") == sealed_by:
            items.extend(kept["items"])
        else:
            if message.get("content") or message.get("refusal"):
                content = _content(message.get("content") or message.get("refusal"))
                items.append({"role": message["role"], "content": content})
            items.extend(map(_call, calls))
    return items


def _call(call: Mapping[str, Any]) -> Json:
    if "custom" in call:
        custom = call["custom"]
        return {
            "type": "custom_tool_call",
            "call_id": call["id"],
            "name": custom["name"],
            "input": custom["input"],
        }
    function = call["function"]
    return {
        "type": "function_call",
        "call_id": call["id"],
        "name": function["name"],
        "arguments": function["arguments"],
    }


def _content(content: Any) -> Any:
    if not isinstance(content, Sequence) or isinstance(content, str):
        return content
    return [_part(part) for part in cast("Sequence[Mapping[str, Any]]", content)]


def _part(part: Mapping[str, Any]) -> Json:
    kind = part.get("type")
    if kind == "text":
        return {"type": "input_text", "text": part["text"]}
    if kind == "image_url":
        image: Any = part["image_url"]
        address = {"url": image} if isinstance(image, str) else dict(image)
        return {"type": "input_image", "image_url": address.pop("url"), "detail": "auto", **address}
    if kind == "file":
        return {"type": "input_file", **part["file"]}
    return dict(part)


def _tool(tool: Mapping[str, Any]) -> Json:
    if tool.get("type") == "function" and "function" in tool:
        # Responses are strict unless told otherwise, chat completions the other way round.
        return {"type": "function", "strict": False, **tool["function"]}
    if tool.get("type") == "custom" and "custom" in tool:
        made: Json = {"type": "custom", **tool["custom"]}
        form: Json = made.get("format") or {}
        if form.get("type") == "grammar":
            made["format"] = {"type": "grammar", **form["grammar"]}
        return made
    return dict(tool)


def _tool_choice(choice: Any) -> Any:
    if isinstance(choice, Mapping):
        fields = cast("Mapping[str, Any]", choice)
        for kind in ("function", "custom"):
            if fields.get("type") == kind and kind in fields:
                return {"type": kind, **fields[kind]}
        if fields.get("type") == "allowed_tools" and "allowed_tools" in fields:
            allowed = fields["allowed_tools"]
            tools = [_tool_choice(tool) for tool in allowed.get("tools", ())]
            return {"type": "allowed_tools", **allowed, "tools": tools}
        return dict(fields)
    return choice


def _text(request: Mapping[str, Any]) -> Json:
    made: Json = {}
    wanted = cast("Mapping[str, Any] | None", request.get("response_format"))
    if wanted is not None:
        described: Json = wanted.get("json_schema") or {}
        made["format"] = {"type": wanted["type"], **described}
    if request.get("verbosity") is not None:
        made["verbosity"] = request["verbosity"]
    return made


def _effort(request: Mapping[str, Any]) -> Json:
    effort = request.get("reasoning_effort")
    return {} if effort is None else {"effort": effort}


def _message(output: Sequence[Json]) -> Json:
    texts: list[str] = []
    refusals: list[str] = []
    thoughts: list[str] = []
    calls: list[Json] = []
    for item in output:
        kind = item.get("type")
        if kind == "message":
            for part in item.get("content") or ():
                texts.append(part.get("text") or "")
                refusals.append(part.get("refusal") or "")
        elif kind == "reasoning":
            parts = item.get("content") or item.get("summary") or ()
            thoughts.extend(part.get("text") or "" for part in parts)
        elif kind == "function_call":
            function = {"name": item.get("name") or "", "arguments": item.get("arguments") or ""}
            calls.append({"id": item.get("call_id"), "type": "function", "function": function})
        elif kind == "custom_tool_call":
            custom = {"name": item.get("name") or "", "input": item.get("input") or ""}
            calls.append({"id": item.get("call_id"), "type": "custom", "custom": custom})
    message: Json = {"role": "assistant", "content": "".join(texts) or None, "refusal": "".join(refusals) or None}
    if calls:
        message["tool_calls"] = calls
    if any(thoughts):
        message["reasoning"] = "\n\n".join(thought for thought in thoughts if thought)
    return message


def _logprobs(output: Sequence[Json]) -> Json | None:
    parts = [part for item in output if item.get("type") == "message" for part in item.get("content") or ()]
    tokens = [token for part in parts for token in part.get("logprobs") or ()]
    return {"content": tokens, "refusal": None} if tokens else None


def _usage(told: Any) -> Json | None:
    if not isinstance(told, Mapping):
        return None
    usage = cast("Mapping[str, Any]", told)
    names = {
        "input_tokens": "prompt_tokens",
        "output_tokens": "completion_tokens",
        "total_tokens": "total_tokens",
        "input_tokens_details": "prompt_tokens_details",
        "output_tokens_details": "completion_tokens_details",
    }
    return {ours: usage[theirs] for theirs, ours in names.items() if theirs in usage}
