"""The table of input items: every kind that the API knows is accepted as history.

Messages, calls and their outputs, reasoning and the items of MCP are checked field by field. What other hosted tools did
elsewhere is checked for its type alone: it is shown to the model as calls and results, whatever its fields are (see
``history.py``).
"""

from typing import Any

from antiphon.protocol import problems
from antiphon.protocol.fields import Enumeration, Flag, Spec, String
from antiphon.protocol.message_fields import MAX_MESSAGES
from antiphon.protocol.responses.found import FOUND
from antiphon.protocol.responses.mcp_fields import MCP_ITEMS
from antiphon.protocol.responses.tool_fields import EFFORTS, tools, updated_format
from antiphon.protocol.shapes import Array, Either, JsonObject, Object, Tagged, Unsupported

STATUSES = ("in_progress", "completed", "incomplete")
_ONLY_TEXT = "Invalid content type. {} is only supported by certain models."
_MAX_OUTPUT = 10_485_760

item_id = String(max_length=128, nullable=True, note="Accepted as it was in an answer.")
status = Enumeration(STATUSES, nullable=True)
passthrough = JsonObject(nullable=True, note="Recorded: what a client adds of its own.")
_recorded: dict[str, Spec] = {"internal_chat_message_metadata_passthrough": passthrough}
_breakpoint = Unsupported(Object({"mode": Enumeration(("explicit",))}, required=("mode",)))


def _text(kind: str) -> Object:
    fields: dict[str, Spec] = {"type": String(), "text": String(), "prompt_cache_breakpoint": _breakpoint}
    if kind == "output_text":
        recorded = Array(JsonObject(), "objects", nullable=True, note="Accepted unchanged; not shown to the model.")
        fields |= {"annotations": recorded, "logprobs": recorded}
    return Object(fields, required=("type", "text"))


def _foreign(kind: str, *fields: str) -> Object:
    """Return a part that only models with eyes or ears take: checked, then refused."""
    refused = Unsupported(String(), _ONLY_TEXT.format(kind))
    table: dict[str, Spec] = {"type": refused, **{name: String(nullable=True) for name in fields}}
    return Object(table, required=("type",))


_image = _foreign("input_image", "image_url", "file_id", "detail")
_file = _foreign("input_file", "file_id", "filename", "file_data", "file_url", "detail")
_audio = Object({"type": Unsupported(String(), _ONLY_TEXT.format("input_audio")), "input_audio": JsonObject()})
_refusal = Object({"type": String(), "refusal": String()}, required=("type", "refusal"))

input_parts = {"input_text": _text("input_text"), "input_image": _image, "input_file": _file, "input_audio": _audio}
_content = Either(
    (
        String(),
        Array(Tagged("type", {**input_parts, "output_text": _text("output_text"), "refusal": _refusal}), "objects"),
    )
)
_output = Either(
    (
        String(max_length=_MAX_OUTPUT),
        Array(
            Tagged("type", {name: input_parts[name] for name in ("input_text", "input_image", "input_file")}), "objects"
        ),
    )
)

_message = Object(
    {
        "type": Enumeration(("message",)),
        "id": item_id,
        "role": Enumeration(("user", "assistant", "system", "developer")),
        "content": _content,
        "status": status,
        "phase": Enumeration(("commentary", "final_answer"), nullable=True, note="Recorded and echoed."),
        **_recorded,
    },
    required=("role", "content"),
)
_caller = JsonObject(nullable=True, note="Recorded: which program made the call.")
_name = String(min_length=1, max_length=128)
_namespace = String(min_length=1, max_length=64, nullable=True)
_call_id = String(min_length=1, max_length=64)
_call_fields: dict[str, Spec] = {
    "type": String(),
    "id": item_id,
    "call_id": _call_id,
    "namespace": _namespace,
    "name": _name,
    "caller": _caller,
    "async": Flag(nullable=True, note="Recorded."),
    "status": status,
    **_recorded,
}
_output_fields: dict[str, Spec] = {
    "type": String(),
    "id": item_id,
    "call_id": _call_id,
    "output": _output,
    "name": String(nullable=True),
    "namespace": _namespace,
    "caller": _caller,
    "status": status,
    **_recorded,
}
_reasoning = Object(
    {
        "type": String(),
        "id": item_id,
        "summary": Array(
            Object({"type": Enumeration(("summary_text",)), "text": String()}, required=("text",)), "objects"
        ),
        "content": Array(
            Object({"type": Enumeration(("reasoning_text",)), "text": String()}, required=("text",)),
            "objects",
            nullable=True,
        ),
        "encrypted_content": String(nullable=True, note="Sealed by this server; a foreign seal is refused."),
        "status": status,
        **_recorded,
    },
    required=("summary",),
)
_reference = Object(
    {"type": Enumeration(("item_reference",), nullable=True), "id": String(min_length=1)}, required=("id",)
)

_CHECKED: dict[str, Object] = {
    "message": _message,
    "function_call": Object(_call_fields | {"arguments": String()}, required=("call_id", "name", "arguments")),
    "function_call_output": Object(_output_fields, required=("call_id", "output")),
    "custom_tool_call": Object(_call_fields | {"input": String()}, required=("call_id", "name", "input")),
    "custom_tool_call_output": Object(_output_fields, required=("call_id", "output")),
    "reasoning": _reasoning,
    "item_reference": _reference,
    "compaction": Object(
        {
            "type": String(),
            "id": item_id,
            "encrypted_content": String(min_length=1),
            "created_by": String(nullable=True),
        },
        required=("encrypted_content",),
    ),
    "compaction_trigger": Object({"type": String()}, required=("type",)),
    "additional_tools": Object(
        {"type": String(), "id": item_id, "role": Enumeration(("developer",)), "tools": tools},
        required=("role", "tools"),
    ),
    "configuration_update": Object(
        {
            "type": String(),
            "id": item_id,
            "reasoning": Object({"effort": Enumeration(EFFORTS, nullable=True)}, nullable=True),
            "text": Object({"format": updated_format}, required=("format",), nullable=True),
        },
        required=("type",),
    ),
    **{kind: Object(table.fields | _recorded, table.required) for kind, table in MCP_ITEMS.items()},
}

FOREIGN_CALLS = (
    "file_search_call", "web_search_call", "computer_call", "code_interpreter_call", "image_generation_call",
    "local_shell_call", "shell_call", "apply_patch_call", "tool_search_call", "program",
)  # fmt: skip
"""What tools of another server did: each becomes a call, and a result where the item carries one."""
FOREIGN_OUTPUTS = (
    "computer_call_output", "local_shell_call_output", "shell_call_output", "apply_patch_call_output",
    "tool_search_output", "program_output",
)  # fmt: skip
"""Results of such calls as items of their own."""
KINDS = (*_CHECKED, *FOREIGN_CALLS, *FOREIGN_OUTPUTS)


class ItemSpec(JsonObject):
    """One input item; without a type it is a message, or a reference where it has an id alone."""

    def check(self, value: Any, path: str) -> None:
        super().check(value, path)
        if FOUND in value:
            raise problems.unknown(f"{path}.{FOUND}", ())
        kind = kind_of(value)
        if not isinstance(kind, str) or kind not in KINDS:
            Enumeration(KINDS).check(kind, f"{path}.type")
        if kind in _CHECKED:
            _CHECKED[kind].check(value, path)
        if kind == "tool_search_output" and value.get("tools") is not None:
            tools.check(value["tools"], f"{path}.tools")
        if kind == "configuration_update" and value.get("reasoning") is None and value.get("text") is None:
            raise problems.bad_request(
                "A configuration update needs 'reasoning', 'text', or both.", path, "missing_required_parameter"
            )

    def refuse(self, value: Any, path: str) -> None:
        kind = kind_of(value)
        if kind in _CHECKED:
            _CHECKED[kind].refuse(value, path)


SETTINGS = ("additional_tools", "configuration_update")
"""Items that say nothing themselves: they change how what follows is answered (see ``settings_items.py``)."""


def kind_of(item: dict[str, Any]) -> Any:
    """Return an item's type, which may be left out of messages and references."""
    given = item.get("type")
    if given is not None:
        return given
    return "item_reference" if set(item) <= {"id", "type"} and "id" in item else "message"


input_ = Either((String(), Array(ItemSpec(), "objects", max_length=MAX_MESSAGES)), nullable=True)
