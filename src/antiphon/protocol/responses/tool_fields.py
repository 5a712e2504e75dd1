"""The tables of tools and of formats, for requests and for the items that change them from one turn to the next."""

from antiphon.protocol.fields import Enumeration, Flag, String
from antiphon.protocol.message_fields import NAME_PATTERN
from antiphon.protocol.responses.file_search import file_search_choice, file_search_tool
from antiphon.protocol.responses.mcp_fields import mcp_choice, mcp_tool
from antiphon.protocol.responses.tool_search import tool_search_choice, tool_search_tool
from antiphon.protocol.shapes import Array, Either, JsonObject, Object, Tagged

_RECORDED = "Recorded with the response; no effect on the answer."
MAX_TOOLS = 128
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
tool_name = String(min_length=1, max_length=128, pattern=NAME_PATTERN)
_callers = Array(String(), "strings", nullable=True, note=_RECORDED)
_defer_loading = Flag(nullable=True, note="With the tool `tool_search`: not shown to the model before it is loaded.")
_function = Object(
    {
        "type": String(),
        "name": tool_name,
        "description": String(nullable=True),
        "parameters": JsonObject(nullable=True, note="A JSON Schema; its keywords are enforced, or refused by name."),
        "output_schema": JsonObject(nullable=True, note=_RECORDED),
        "strict": Flag(nullable=True, note="Left out or null: strict where the schema is of the strict subset."),
        "defer_loading": _defer_loading,
        "async": Flag(nullable=True, note=_RECORDED),
        "allowed_callers": _callers,
    },
    required=("type", "name"),
)
_custom_format = Tagged(
    "type",
    {
        "text": Object({"type": String()}, required=("type",)),
        "grammar": Object(
            {"type": String(), "syntax": Enumeration(("lark", "regex")), "definition": String()},
            required=("type", "syntax", "definition"),
        ),
    },
)
_custom = Object(
    {
        "type": String(),
        "name": tool_name,
        "description": String(nullable=True),
        "format": _custom_format,
        "defer_loading": _defer_loading,
        "async": Flag(nullable=True, note=_RECORDED),
        "allowed_callers": _callers,
    },
    required=("type", "name"),
)
_namespace = Object(
    {
        "type": String(),
        "name": String(min_length=1, max_length=64, pattern=NAME_PATTERN),
        "description": String(nullable=True),
        "tools": Array(Tagged("type", {"function": _function, "custom": _custom}), "objects", min_length=1),
    },
    required=("type", "name", "tools"),
)
HOSTED_TOOLS = (
    "web_search", "web_search_2025_08_26", "web_search_preview", "web_search_preview_2025_03_11", "file_search", "mcp",
    "code_interpreter", "image_generation", "computer", "computer_use_preview", "local_shell", "shell", "apply_patch",
    "tool_search", "programmatic_tool_calling",
)  # fmt: skip
"""Tools that OpenAI runs on its own servers; ``[responses] hosted_tools`` says what becomes of those that are not run here."""
SERVED_TOOLS: dict[str, Object] = {"mcp": mcp_tool, "file_search": file_search_tool, "tool_search": tool_search_tool}
"""Hosted tools that this server can run, where its settings allow it."""
SERVED_CHOICES: dict[str, Object] = {
    "mcp": mcp_choice, "file_search": file_search_choice, "tool_search": tool_search_choice,
}  # fmt: skip
"""How ``tool_choice`` names one of them."""


class _HostedTool(Object):
    """A hosted tool. Where it is not run, its own fields are the other server's business."""

    def check(self, value: object, path: str) -> None:
        JsonObject().check(value, path)

    def refuse(self, value: object, path: str) -> None:
        """Checked in full and run, refused, or left out, where the tools are read: a setting decides."""


def _hosted(tables: dict[str, Object]) -> dict[str, Object]:
    tables = dict.fromkeys(HOSTED_TOOLS, Object({"type": String()})) | tables
    return {name: _HostedTool(table.fields, table.required) for name, table in tables.items()}


_hosted_choices = _hosted(SERVED_CHOICES)
tools = Array(
    Tagged(
        "type",
        {"function": _function, "custom": _custom, "namespace": _namespace, **_hosted(SERVED_TOOLS)},
    ),
    "objects",
    max_length=MAX_TOOLS,
    nullable=True,
)

_named = Object({"type": String(), "name": String(), "namespace": String(nullable=True)}, required=("type", "name"))
_allowed_tool = Tagged("type", {"function": _named, "custom": _named, **_hosted_choices})
tool_choice = Either(
    (
        Enumeration(("none", "auto", "required")),
        Tagged(
            "type",
            {
                "function": _named,
                "custom": _named,
                "allowed_tools": Object(
                    {
                        "type": String(),
                        "mode": Enumeration(("auto", "required")),
                        "tools": Array(_allowed_tool, "objects", min_length=1),
                    },
                    required=("type", "mode", "tools"),
                ),
                **_hosted_choices,
            },
        ),
    ),
    nullable=True,
)

_plain = Object({"type": String()}, required=("type",))
_json_schema = Object(
    {
        "type": String(),
        "name": String(min_length=1, max_length=64, pattern=NAME_PATTERN),
        "description": String(nullable=True),
        "schema": JsonObject(note="A JSON Schema; its keywords are enforced, or refused by name."),
        "strict": Flag(nullable=True, note="Checks the schema against OpenAI's strict subset."),
    },
    required=("type", "name", "schema"),
)
text_format = Tagged(
    "type", {"text": _plain, "json_object": Object({"type": String()}, required=("type",)), "json_schema": _json_schema}
)
updated_format = Tagged("type", {"text": _plain, "json_schema": _json_schema})
"""The formats that a ``configuration_update`` may choose."""
