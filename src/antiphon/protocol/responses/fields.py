"""The table of ``POST /v1/responses``, in the document's order."""

from dataclasses import replace

from antiphon.protocol.chat_fields import Retention, cache_mode, penalty, temperature, top_p, user
from antiphon.protocol.fields import Enumeration, Flag, Integer, Spec, String
from antiphon.protocol.metadata import METADATA
from antiphon.protocol.responses.item_fields import input_
from antiphon.protocol.responses.tool_fields import EFFORTS, text_format, tool_choice, tools
from antiphon.protocol.shapes import Array, Either, JsonObject, Object, Unsupported

_RECORDED = "Recorded with the response; no effect on the answer."
INCLUDES = (
    "file_search_call.results", "web_search_call.results", "web_search_call.action.sources",
    "message.input_image.image_url", "computer_call_output.output.image_url", "code_interpreter_call.outputs",
    "reasoning.encrypted_content", "message.output_text.logprobs",
)  # fmt: skip

_SUMMARIES = Enumeration(("auto", "concise", "detailed"), supported=("auto", "detailed"), nullable=True)
reasoning = Object(
    {
        "effort": Enumeration(EFFORTS, nullable=True),
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
            {"format": text_format, "verbosity": Enumeration(("low", "medium", "high"), nullable=True)}, nullable=True
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
        "metadata": replace(METADATA, note=_RECORDED),
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
        "prompt_cache_options": Object(
            {
                "mode": cache_mode,
                "ttl": Unsupported(Enumeration(("30m", "12h"))),
                "prewarm": Flag(note="True computes the prompt, and answers nothing."),
                "comparison_response_id": _refused(String()),
            },
            nullable=True,
        ),
        "prompt": _refused(JsonObject()),
        "moderation": _refused(JsonObject()),
        "multi_agent": _refused(JsonObject()),
        "access_programs": _refused(Array(JsonObject(), "objects")),
    },
    required=("model",),
)
