"""The tables of tools, functions and what may be chosen among them."""

from antiphon.protocol.client_fields import ClientField
from antiphon.protocol.fields import Enumeration, Flag, String
from antiphon.protocol.message_fields import name
from antiphon.protocol.shapes import Array, Either, JsonObject, Object, Tagged

MAX_TOOLS = 128

_function = Object(
    {
        "name": name,
        "description": String(),
        "parameters": JsonObject(note="A JSON Schema; its keywords are enforced, or refused by name."),
        "strict": Flag(nullable=True, note="Checks the schema against OpenAI's strict subset."),
        "required": ClientField("tools[].function.required", nullable=True),
    },
    required=("name",),
)
_grammar = Object(
    {"definition": String(), "syntax": Enumeration(("lark", "regex"))},
    required=("definition", "syntax"),
)
_custom_format = Tagged(
    "type",
    {
        "text": Object({"type": String()}, required=("type",)),
        "grammar": Object({"type": String(), "grammar": _grammar}, required=("type", "grammar")),
    },
)
_custom = Object({"name": name, "description": String(), "format": _custom_format}, required=("name",))

tools = Array(
    Tagged(
        "type",
        {
            "function": Object({"type": String(), "function": _function}, required=("type", "function")),
            "custom": Object({"type": String(), "custom": _custom}, required=("type", "custom")),
        },
    ),
    "objects",
    min_length=1,
    max_length=MAX_TOOLS,
)

_named = Object({"name": String()}, required=("name",))
_allowed = Object(
    {
        "mode": Enumeration(("auto", "required")),
        "tools": Array(
            Tagged(
                "type",
                {
                    "function": Object({"type": String(), "function": _named}, required=("type", "function")),
                    "custom": Object({"type": String(), "custom": _named}, required=("type", "custom")),
                },
            ),
            "objects",
            min_length=1,
            max_length=MAX_TOOLS,
        ),
    },
    required=("mode", "tools"),
)
tool_choice = Either(
    (
        Enumeration(("none", "auto", "required")),
        Tagged(
            "type",
            {
                "function": Object({"type": String(), "function": _named}, required=("type", "function")),
                "allowed_tools": Object(
                    {"type": String(), "allowed_tools": _allowed}, required=("type", "allowed_tools")
                ),
                "custom": Object({"type": String(), "custom": _named}, required=("type", "custom")),
            },
        ),
    )
)

functions = Array(
    Object(
        {"name": name, "description": String(), "parameters": JsonObject()},
        required=("name",),
    ),
    "function definitions",
    min_length=1,
    max_length=MAX_TOOLS,
)
function_call = Either((Enumeration(("none", "auto")), _named))
