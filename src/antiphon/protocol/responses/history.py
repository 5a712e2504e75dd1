"""From input items to the messages of a conversation.

Consecutive items of the model (reasoning, text, calls) become one assistant message; the results of its calls follow it
directly, in the order of the calls, wherever they lie in the input. What hosted tools did, here or elsewhere, is a call and
a result like any other, so that the model sees it in the syntax that it knows. A list of an MCP server's tools is not
shown: it is what the model is offered as tools, and nothing that was said.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import msgspec

from antiphon.protocol import problems
from antiphon.protocol.chat import FunctionCall, Message, ToolCall
from antiphon.protocol.errors import ApiError
from antiphon.protocol.ids import new_id, new_item_id
from antiphon.protocol.responses.file_search import results_text
from antiphon.protocol.responses.item_fields import FOREIGN_CALLS, FOREIGN_OUTPUTS, SETTINGS, kind_of
from antiphon.protocol.responses.mcp_fields import without_secrets
from antiphon.protocol.responses.mcp_history import McpRecord, result_of_call
from antiphon.protocol.responses.tool_names import shown_name
from antiphon.protocol.responses.tool_search import result_text

Json = dict[str, Any]
Unseal = Callable[[str], str]
"""Opens ``encrypted_content``; raises ``ApiError`` 400 for what this server did not seal."""

_CALLS = {"function_call", "custom_tool_call", *FOREIGN_CALLS}
_MCP = {"mcp_list_tools", "mcp_call", "mcp_approval_request", "mcp_approval_response"}
_OUTPUTS = {"function_call_output", "custom_tool_call_output", *FOREIGN_OUTPUTS}
_ID_PREFIX = {
    "message": "msg", "reasoning": "rs", "function_call": "fc", "function_call_output": "fco", "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco", "compaction": "cmp", "mcp_call": "mcp", "mcp_list_tools": "mcpl",
    "mcp_approval_request": "mcpr", "mcp_approval_response": "mcpa", "file_search_call": "fs",
    "additional_tools": "at", "configuration_update": "cu", "tool_search_call": "tsc", "tool_search_output": "tso",
}  # fmt: skip
_HIDDEN = {
    "type",
    "id",
    "status",
    "call_id",
    "internal_chat_message_metadata_passthrough",
    "result",
    "output",
    "outputs",
}
_STEPS = {"mcp_call", "file_search_call", "tool_search_call"}
"""Calls that are run as soon as they are written: what the model wrote next, it wrote with their results before it."""
_RESULTS = ("output", "outputs", "results", "result", "error", "tools")


class UnknownItem(ApiError):  # noqa: N818 - named after what happened
    """404: an ``item_reference`` to what is not kept here."""

    def __init__(self, item_id: str) -> None:
        super().__init__(
            404,
            f"Item with id '{item_id}' not found. Items are not persisted when `store` is set to false.",
            param="input",
        )


def with_ids(items: Iterable[Json], response_id: str | None = None) -> tuple[Json, ...]:
    """Return items as they are kept and listed: with type, id and status, texts of messages as parts.

    ``response_id``: the response that they are the input of.
    """
    return tuple(_kept(item, response_id, position) for position, item in enumerate(items))


def _kept(item: Json, response_id: str | None, position: int) -> Json:
    kind: str = kind_of(item)
    kept = {"id": None, **item, "type": kind}
    kept["id"] = item.get("id") or _new_id(kind, response_id, position)
    if kind == "message":
        kept.setdefault("status", "completed")
        if isinstance(item["content"], str):
            part = "output_text" if item["role"] == "assistant" else "input_text"
            extra: Json = {"annotations": []} if part == "output_text" else {}
            kept["content"] = [{"type": part, "text": item["content"], **extra}]
    elif kind in _CALLS | _OUTPUTS:
        kept.setdefault("status", "completed")
    if "tools" in kept:
        kept["tools"] = without_secrets(kept["tools"])
    return kept


def _new_id(kind: str, response_id: str | None, position: int) -> str:
    prefix = _ID_PREFIX.get(kind, "item")
    return new_id(prefix, "_") if response_id is None else new_item_id(prefix, response_id, position)


class _Assistant:
    """The message that the model's consecutive items make."""

    def __init__(self) -> None:
        self.reasoning: list[str] = []
        self.texts: list[str] = []
        self.refusals: list[str] = []
        self.calls: list[ToolCall] = []

    @property
    def is_empty(self) -> bool:
        return not (self.reasoning or self.texts or self.refusals or self.calls)

    def message(self) -> Message:
        return Message(
            "assistant",
            "".join(self.texts) if self.texts or not self.calls else None,
            refusal="".join(self.refusals) or None,
            tool_calls=tuple(self.calls),
            reasoning_content="".join(self.reasoning) or None,
        )


def messages_of(items: Sequence[Json], unseal: Unseal, kept: Mapping[str, Json]) -> tuple[Message, ...]:
    """Return the messages of all items. ``kept`` has what references may name, by id.

    Raises ``ApiError`` 400 for a call without a result, a result without a call and a foreign seal; ``UnknownItem`` 404.
    """
    resolved = [_resolve(item, kept) for item in items]
    return _Conversation(resolved, unseal).messages()


def _resolve(item: Json, kept: Mapping[str, Json]) -> Json:
    if kind_of(item) != "item_reference":
        return item
    if item["id"] not in kept:
        raise UnknownItem(item["id"])
    return kept[item["id"]]


class _Conversation:
    """One pass over the items."""

    def __init__(self, items: Sequence[Json], unseal: Unseal) -> None:
        self._items = items
        self._unseal = unseal
        self._mcp = McpRecord(items)
        self._is_step_over = False
        self._results = self._collect_results()
        self._found: list[Message] = []
        self._assistant = _Assistant()

    def messages(self) -> tuple[Message, ...]:
        for position, item in enumerate(self._items):
            self._take(kind_of(item), item, position)
        self._close()
        return tuple(self._found)

    def _collect_results(self) -> dict[str, Json]:
        calls = {_call_id(item, at) for at, item in enumerate(self._items) if kind_of(item) in _CALLS}
        results: dict[str, Json] = {}
        unnamed: str | None = None
        for position, item in enumerate(self._items):
            kind = kind_of(item)
            if kind in FOREIGN_CALLS and item.get("call_id") is None:
                unnamed = _call_id(item, position)
            if kind not in _OUTPUTS:
                continue
            # What another server ran by itself may have no call_id: then the call is the one just before.
            call_id = unnamed if item.get("call_id") is None else str(item["call_id"])
            if call_id is None or call_id not in calls:
                raise problems.bad_request(
                    f"No tool call found for function call output with call_id {item.get('call_id')}.", "input"
                )
            results.setdefault(call_id, item)
        return results

    def _take(self, kind: str, item: Json, position: int) -> None:
        if kind == "message" and item["role"] == "assistant":
            self._close_if(bool(self._assistant.calls or self._assistant.texts))
            texts, refusals = _texts(item["content"])
            self._assistant.texts.extend(texts)
            self._assistant.refusals.extend(refusals)
        elif kind == "message":
            self._close()
            self._found.append(Message(item["role"], "".join(_texts(item["content"])[0])))
        elif kind == "reasoning":
            self._close_if(bool(self._assistant.calls or self._assistant.texts))
            self._assistant.reasoning.append(self._reasoning(item))
        elif kind == "compaction":
            self._close()
            self._found.append(Message("user", self._unseal(item["encrypted_content"])))
        elif kind in _CALLS:
            self._add_call(_call(kind, item, position), ends_step=kind in _STEPS)
            self._note_inner_result(kind, item, position)
        elif kind in _MCP:
            self._take_mcp(kind, item)
        elif kind in SETTINGS:
            return
        else:
            self._close()

    def _add_call(self, call: ToolCall, *, ends_step: bool = False) -> None:
        self._close_if(self._is_step_over)
        self._assistant.calls.append(call)
        self._is_step_over = ends_step

    def _take_mcp(self, kind: str, item: Json) -> None:
        if kind == "mcp_list_tools":
            return
        if kind == "mcp_approval_request":
            self._add_call(_mcp_call(item))
            self._results[item["id"]] = {"output": self._mcp.result_of_request(item["id"])}
        elif kind == "mcp_call" and not self._mcp.is_run_of_request(item):
            self._add_call(_mcp_call(item), ends_step=True)
            self._results[item["id"]] = {"output": result_of_call(item)}
        else:
            # The answer to a request for approval, or the run that followed it: the request is shown as the call.
            self._is_step_over = True

    def _note_inner_result(self, kind: str, item: Json, position: int) -> None:
        """A hosted tool's call carries its own result, or has none that a model could read."""
        if kind in FOREIGN_CALLS:
            text = results_text(item) if kind == "file_search_call" else None
            inner = text or {key: item[key] for key in _RESULTS if item.get(key) is not None}
            self._results.setdefault(
                _call_id(item, position), {"output": inner or str(item.get("status", "completed"))}
            )

    def _reasoning(self, item: Json) -> str:
        parts: list[Json] = item.get("content") or []
        if parts:
            return "".join(part["text"] for part in parts)
        if item.get("encrypted_content"):
            return self._unseal(item["encrypted_content"])
        return "\n\n".join(part["text"] for part in item["summary"])

    def _close_if(self, condition: bool) -> None:
        if condition:
            self._close()

    def _close(self) -> None:
        if self._assistant.is_empty:
            self._is_step_over = False
            return
        self._found.append(self._assistant.message())
        for call in self._assistant.calls:
            result = self._results.get(call.id)
            if result is None:
                raise problems.bad_request(f"No tool output found for function call {call.id}.", "input")
            self._found.append(Message("tool", _result_text(result), tool_call_id=call.id))
        self._assistant = _Assistant()
        self._is_step_over = False


def _call_id(item: Json, position: int) -> str:
    return str(item.get("call_id") or item.get("approval_request_id") or item.get("id") or f"call_{position}")


def _mcp_call(item: Json) -> ToolCall:
    return ToolCall(item["id"], FunctionCall(shown_name(item["server_label"], item["name"]), item["arguments"]))


def _call(kind: str, item: Json, position: int) -> ToolCall:
    call_id = _call_id(item, position)
    if kind == "function_call":
        return ToolCall(call_id, FunctionCall(shown_name(item.get("namespace"), item["name"]), item["arguments"]))
    if kind == "custom_tool_call":
        return ToolCall(call_id, FunctionCall(shown_name(item.get("namespace"), item["name"]), item["input"]), "custom")
    said = {
        key: value for key, value in item.items() if key not in _HIDDEN and key not in _RESULTS and value is not None
    }
    name = str(item.get("name") or kind.removesuffix("_call"))
    arguments = item.get("arguments")
    if kind == "tool_search_call" and isinstance(arguments, dict):
        arguments = msgspec.json.encode(arguments).decode()
    text = arguments if isinstance(arguments, str) else msgspec.json.encode(said).decode()
    return ToolCall(call_id, FunctionCall(name, text))


def _texts(content: str | list[Json]) -> tuple[list[str], list[str]]:
    """Return the texts and the refusals of a message."""
    if isinstance(content, str):
        return [content], []
    texts = [part["text"] for part in content if part["type"] in {"input_text", "output_text"}]
    return texts, [part["refusal"] for part in content if part["type"] == "refusal"]


def _result_text(result: Json) -> str:
    if kind_of(result) == "tool_search_output" and "tools" in result:
        return result_text(result)
    return _output_text(result.get("output", result))


def _output_text(output: Any) -> str:
    if isinstance(output, str):
        return output
    if isinstance(output, list) and all(
        isinstance(part, dict) and "text" in part for part in cast("list[Any]", output)
    ):
        return "".join(part["text"] for part in cast("list[Json]", output))
    return msgspec.json.encode(output).decode()
