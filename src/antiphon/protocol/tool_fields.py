"""The tables of tools, functions and what may be chosen among them."""

from antiphon.protocol.fields import Choice, Flag, Text
from antiphon.protocol.message_fields import name
from antiphon.protocol.shapes import Array, Either, JsonObject, Object, Tagged

MAX_TOOLS = 128

_function = Object(
    {
        "name": name,
        "description": Text(),
        "parameters": JsonObject(note="A JSON Schema; its keywords are enforced, or refused by name."),
        "strict": Flag(nullable=True, note="Checks the schema against OpenAI's strict subset."),
    },
    required=("name",),
)
_grammar = Object(
    {"definition": Text(), "syntax": Choice(("lark", "regex"))},
    required=("definition", "syntax"),
)
_custom_format = Tagged(
    "type",
    {
        "text": Object({"type": Text()}, required=("type",)),
        "grammar": Object({"type": Text(), "grammar": _grammar}, required=("type", "grammar")),
    },
)
_custom = Object({"name": name, "description": Text(), "format": _custom_format}, required=("name",))

tools = Array(
    Tagged(
        "type",
        {
            "function": Object({"type": Text(), "function": _function}, required=("type", "function")),
            "custom": Object({"type": Text(), "custom": _custom}, required=("type", "custom")),
        },
    ),
    "objects",
    min_length=1,
    max_length=MAX_TOOLS,
)

_named = Object({"name": Text()}, required=("name",))
_allowed = Object(
    {
        "mode": Choice(("auto", "required")),
        "tools": Array(
            Tagged(
                "type",
                {
                    "function": Object({"type": Text(), "function": _named}, required=("type", "function")),
                    "custom": Object({"type": Text(), "custom": _named}, required=("type", "custom")),
                },
            ),
            "objects",
            min_length=1,
        ),
    },
    required=("mode", "tools"),
)
tool_choice = Either(
    (
        Choice(("none", "auto", "required")),
        Tagged(
            "type",
            {
                "function": Object({"type": Text(), "function": _named}, required=("type", "function")),
                "allowed_tools": Object(
                    {"type": Text(), "allowed_tools": _allowed}, required=("type", "allowed_tools")
                ),
                "custom": Object({"type": Text(), "custom": _named}, required=("type", "custom")),
            },
        ),
    )
)

functions = Array(
    Object(
        {"name": name, "description": Text(), "parameters": JsonObject()},
        required=("name",),
    ),
    "function definitions",
    min_length=1,
    max_length=MAX_TOOLS,
)
function_call = Either((Choice(("none", "auto")), _named))
