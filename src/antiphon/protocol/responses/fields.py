"""The table of ``POST /v1/responses``, in the document's order."""

from antiphon.protocol.chat_fields import Retention, penalty, temperature, top_p, user
from antiphon.protocol.fields import Enumeration, Flag, Integer, Spec, String
from antiphon.protocol.message_fields import NAME_PATTERN
from antiphon.protocol.responses.item_fields import input_
from antiphon.protocol.responses.mcp_fields import mcp_choice, mcp_tool
from antiphon.protocol.shapes import Array, Either, JsonObject, Mapping, Object, Tagged, Unsupported

_RECORDED = "Recorded with the response; no effect on the answer."
MAX_TOOLS = 128
INCLUDES = (
    "file_search_call.results", "web_search_call.results", "web_search_call.action.sources",
    "message.input_image.image_url", "computer_call_output.output.image_url", "code_interpreter_call.outputs",
    "reasoning.encrypted_content", "message.output_text.logprobs",
)  # fmt: skip

tool_name = String(min_length=1, max_length=128, pattern=NAME_PATTERN)
_callers = Array(String(), "strings", nullable=True, note=_RECORDED)
_function = Object(
    {
        "type": String(),
        "name": tool_name,
        "description": String(nullable=True),
        "parameters": JsonObject(nullable=True, note="A JSON Schema; its keywords are enforced, or refused by name."),
        "output_schema": JsonObject(nullable=True, note=_RECORDED),
        "strict": Flag(nullable=True, note="Left out or null: strict where the schema is of the strict subset."),
        "defer_loading": Flag(nullable=True, note="Recorded: every tool is shown to the model from the start."),
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
        "defer_loading": Flag(nullable=True),
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
SERVED_TOOLS: dict[str, Object] = {"mcp": mcp_tool}
"""Hosted tools that this server can run, where its settings allow it."""
SERVED_CHOICES: dict[str, Object] = {"mcp": mcp_choice}
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

_format = Tagged(
    "type",
    {
        "text": Object({"type": String()}, required=("type",)),
        "json_object": Object({"type": String()}, required=("type",)),
        "json_schema": Object(
            {
                "type": String(),
                "name": String(min_length=1, max_length=64, pattern=NAME_PATTERN),
                "description": String(nullable=True),
                "schema": JsonObject(note="A JSON Schema; its keywords are enforced, or refused by name."),
                "strict": Flag(nullable=True, note="Checks the schema against OpenAI's strict subset."),
            },
            required=("type", "name", "schema"),
        ),
    },
)
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_SUMMARIES = Enumeration(("auto", "concise", "detailed"), supported=("auto", "detailed"), nullable=True)
reasoning = Object(
    {
        "effort": Enumeration(_EFFORTS, nullable=True),
        "summary": _SUMMARIES,
        "generate_summary": _SUMMARIES,
        "context": Enumeration(("auto", "current_turn", "all_turns"), supported=("auto", "all_turns"), nullable=True),
        "mode": Enumeration(("standard", "pro"), supported=("standard",), nullable=True),
    },
    nullable=True,
)


def _refused(inner: Spec) -> Unsupported:
    return Unsupported(inner, nullable=True)


responses = Object(
    {
        "model": String(min_length=1),
        "input": input_,
        "instructions": String(nullable=True, note="A system message before the input; not inherited."),
        "previous_response_id": String(min_length=1, nullable=True),
        "conversation": Either(
            (String(min_length=1), Object({"id": String(min_length=1)}, required=("id",))), nullable=True
        ),
        "store": Flag(nullable=True, note="Kept for 30 days unless false."),
        "background": Flag(nullable=True),
        "background_options": Object(
            {
                "completion_window": Enumeration(("soonest", "2h", "8h"), supported=("soonest",)),
                "continuation_id": String(note=_RECORDED),
            },
            nullable=True,
        ),
        "stream": Flag(nullable=True),
        "stream_options": Object({"include_obfuscation": Flag()}, nullable=True),
        "include": Array(Enumeration(INCLUDES), "strings", nullable=True),
        "tools": tools,
        "tool_choice": tool_choice,
        "parallel_tool_calls": Flag(nullable=True),
        "max_tool_calls": Integer(minimum=1, nullable=True, note="Bounds tools that the server runs; echoed."),
        "max_output_tokens": Integer(minimum=16, nullable=True),
        "temperature": temperature,
        "top_p": top_p,
        "presence_penalty": penalty,
        "frequency_penalty": penalty,
        "top_logprobs": Integer(minimum=0, maximum=20, nullable=True),
        "text": Object(
            {"format": _format, "verbosity": Enumeration(("low", "medium", "high"), nullable=True)}, nullable=True
        ),
        "reasoning": reasoning,
        "image": Object(
            {"context_compression": Enumeration(("auto", "enabled", "disabled"), supported=("auto", "disabled"))},
            nullable=True,
            note="No images are taken, so there are none to compress.",
        ),
        "truncation": Enumeration(("auto", "disabled"), nullable=True),
        "context_management": Array(
            Object(
                {"type": Enumeration(("compaction",)), "compact_threshold": Integer(minimum=1000, nullable=True)},
                required=("type",),
            ),
            "objects",
            max_length=1,
            nullable=True,
        ),
        "metadata": Mapping(
            String(max_length=512),
            max_properties=16,
            max_name_length=64,
            called="metadata object",
            nullable=True,
            note=_RECORDED,
        ),
        "user": user,
        "safety_identifier": String(max_length=128, nullable=True, note=_RECORDED),
        "prompt_cache_key": String(nullable=True, note=_RECORDED),
        "prompt_cache_retention": Retention(("in_memory", "24h"), supported=("in_memory",), nullable=True),
        "service_tier": Enumeration(
            ("auto", "default", "fast", "flex", "priority", "scale"),
            nullable=True,
            note="There is one tier; the answer says 'default', whichever was asked for.",
        ),
        "client_metadata": JsonObject(nullable=True, note=_RECORDED),
        "prompt_cache_options": _refused(JsonObject()),
        "prompt": _refused(JsonObject()),
        "moderation": _refused(JsonObject()),
        "multi_agent": _refused(JsonObject()),
        "access_programs": _refused(Array(JsonObject(), "objects")),
    },
    required=("model",),
)
