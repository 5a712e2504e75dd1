"""The table of a chat message: what each role may say."""

from antiphon.protocol.fields import Choice, Spec, Text
from antiphon.protocol.shapes import Array, Either, JsonObject, Object, Refused, Tagged

NAME_PATTERN = "^[a-zA-Z0-9_-]+$"
_ONLY_TEXT = "Invalid content type. {} is only supported by certain models."

name = Text(min_length=1, max_length=64, pattern=NAME_PATTERN)
participant = Text(pattern=NAME_PATTERN, max_length=64, note="Handed to the model's template with the message.")

_breakpoint = Refused(Object({"mode": Choice(("explicit",))}, required=("mode",)))
_text_part = Object(
    {"type": Text(), "text": Text(), "prompt_cache_breakpoint": _breakpoint},
    required=("type", "text"),
)
_refusal_part = Object({"type": Text(), "refusal": Text()}, required=("type", "refusal"))


def _foreign_part(kind: str, inner: Object) -> Object:
    refused_type = Refused(Text(), _ONLY_TEXT.format(kind))
    return Object(
        {"type": refused_type, kind: inner, "prompt_cache_breakpoint": _breakpoint},
        required=("type", kind),
    )


_image_part = _foreign_part(
    "image_url",
    Object({"url": Text(), "detail": Choice(("auto", "low", "high"))}, required=("url",)),
)
_audio_part = _foreign_part(
    "input_audio",
    Object({"data": Text(), "format": Choice(("wav", "mp3"))}, required=("data", "format")),
)
_file_part = _foreign_part("file", Object({"filename": Text(), "file_data": Text(), "file_id": Text()}))


def _content(*, nullable: bool = True, **parts: Object) -> Either:
    return Either((Text(), Array(Tagged("type", {"text": _text_part, **parts}), "objects")), nullable=nullable)


_function_call = Object({"name": name, "arguments": Text()}, required=("name", "arguments"))
_tool_call = Tagged(
    "type",
    {
        "function": Object(
            {"id": Text(), "type": Text(), "function": _function_call}, required=("id", "type", "function")
        ),
        "custom": Object(
            {
                "id": Text(),
                "type": Text(),
                "custom": Object({"name": name, "input": Text()}, required=("name", "input")),
            },
            required=("id", "type", "custom"),
        ),
    },
)


def _role(required: tuple[str, ...], **fields: Spec) -> Object:
    return Object({"role": Text(), **fields}, required=("role", *required))


# Content that is null or absent is looked for last of all, in history.py; the developer role alone does it here.
_assistant = _role(
    (),
    content=_content(refusal=_refusal_part),
    refusal=Text(nullable=True),
    name=participant,
    tool_calls=Array(_tool_call, "objects", min_length=1),
    function_call=Object(_function_call.fields, required=_function_call.required, nullable=True),
    audio=Refused(Object({"id": Text()}, required=("id",)), nullable=True),
    annotations=Array(JsonObject(), "objects", note="Accepted as it came in an answer; says nothing to the model."),
    reasoning_content=Text(nullable=True, note="The thinking part of an earlier answer, for templates that replay it."),
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
            "function": _role(("content", "name"), content=Text(nullable=True), name=name),
            "tool": _role(("tool_call_id",), content=_content(), tool_call_id=Text(), name=participant),
            "developer": _role(("content",), content=_content(nullable=False), name=participant),
        },
    ),
    "objects",
    min_length=1,
)
