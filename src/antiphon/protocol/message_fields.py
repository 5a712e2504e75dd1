"""The table of a chat message: what each role may say."""

from antiphon.protocol.client_fields import ClientField
from antiphon.protocol.fields import Enumeration, Spec, String
from antiphon.protocol.shapes import Array, Either, JsonObject, Object, Tagged, Unsupported

NAME_PATTERN = "^[a-zA-Z0-9_-]+$"
MAX_MESSAGES = 2048
"""Messages of a request, and parts of a message: bounds what is built for each of them."""
MAX_TOOL_CALLS = 128
_ONLY_TEXT = "Invalid content type. {} is only supported by certain models."

name = String(min_length=1, max_length=64, pattern=NAME_PATTERN)
participant = String(pattern=NAME_PATTERN, max_length=64, note="Handed to the model's template with the message.")

_breakpoint = Unsupported(Object({"mode": Enumeration(("explicit",))}, required=("mode",)))
_text_part = Object(
    {"type": String(), "text": String(), "prompt_cache_breakpoint": _breakpoint},
    required=("type", "text"),
)
_refusal_part = Object({"type": String(), "refusal": String()}, required=("type", "refusal"))


def _foreign_part(kind: str, inner: Object) -> Object:
    refused_type = Unsupported(String(), _ONLY_TEXT.format(kind))
    return Object(
        {"type": refused_type, kind: inner, "prompt_cache_breakpoint": _breakpoint},
        required=("type", kind),
    )


_image_part = _foreign_part(
    "image_url",
    Object({"url": String(), "detail": Enumeration(("auto", "low", "high"))}, required=("url",)),
)
_audio_part = _foreign_part(
    "input_audio",
    Object({"data": String(), "format": Enumeration(("wav", "mp3"))}, required=("data", "format")),
)
_file_part = _foreign_part("file", Object({"filename": String(), "file_data": String(), "file_id": String()}))


def _content(*, nullable: bool = True, **parts: Object) -> Either:
    listed = Array(Tagged("type", {"text": _text_part, **parts}), "objects", max_length=MAX_MESSAGES)
    return Either((String(), listed), nullable=nullable)


_function_call = Object({"name": name, "arguments": String()}, required=("name", "arguments"))
_called_function = Object(
    _function_call.fields
    | {
        name: ClientField(f"messages[].tool_calls[].function.{name}", nullable=True)
        for name in ("parsed_arguments", "provider_specific_fields")
    },
    required=_function_call.required,
)
_kept_with_call = {
    name: ClientField(f"messages[].tool_calls[].{name}", nullable=True)
    for name in ("index", "provider_specific_fields")
}
_tool_call = Tagged(
    "type",
    {
        "function": Object(
            {"id": String(), "type": String(), "function": _called_function, **_kept_with_call},
            required=("id", "type", "function"),
        ),
        "custom": Object(
            {
                "id": String(),
                "type": String(),
                "custom": Object({"name": name, "input": String()}, required=("name", "input")),
                **_kept_with_call,
            },
            required=("id", "type", "custom"),
        ),
    },
)


def _role(required: tuple[str, ...], **fields: Spec) -> Object:
    return Object({"role": String(), **fields}, required=("role", *required))


# history.py checks last of all for content that is null or absent; only the developer role is checked here.
_assistant = _role(
    (),
    content=_content(refusal=_refusal_part),
    refusal=String(nullable=True),
    name=participant,
    # Null as the official client's model_dump() writes what the answer did not have.
    tool_calls=Array(_tool_call, "objects", min_length=1, max_length=MAX_TOOL_CALLS, nullable=True),
    function_call=Object(_function_call.fields, required=_function_call.required, nullable=True),
    audio=Unsupported(Object({"id": String()}, required=("id",)), nullable=True),
    annotations=Array(
        JsonObject(), "objects", nullable=True, note="Accepted as part of an earlier answer; says nothing to the model."
    ),
    parsed=ClientField("messages[].parsed", nullable=True),
    provider_specific_fields=ClientField("messages[].provider_specific_fields", nullable=True),
    reasoning_details=ClientField("messages[].reasoning_details", nullable=True),
    reasoning=String(nullable=True, note="Read as `reasoning_content`, if that is absent."),
    reasoning_content=String(
        nullable=True, note="The thinking part of an earlier answer, for templates that replay it."
    ),
)

messages = Array(
    Tagged(
        "role",
        {
            "system": _role((), content=_content(), name=participant),
            "assistant": _assistant,
            "user": _role(
                (),
                content=_content(image_url=_image_part, input_audio=_audio_part, file=_file_part),
                name=participant,
            ),
            "function": _role(("content", "name"), content=String(nullable=True), name=name),
            "tool": _role(("tool_call_id",), content=_content(), tool_call_id=String(), name=participant),
            "developer": _role(("content",), content=_content(nullable=False), name=participant),
        },
    ),
    "objects",
    min_length=1,
    max_length=MAX_MESSAGES,
)
