"""The table of ``POST /v1/chat/completions``, in OpenAI's order of checks."""

from dataclasses import replace
from typing import Any

from antiphon.protocol import problems
from antiphon.protocol.fields import Enumeration, Flag, Integer, Number, String
from antiphon.protocol.message_fields import NAME_PATTERN, messages
from antiphon.protocol.metadata import METADATA
from antiphon.protocol.shapes import Array, Either, JsonObject, Mapping, Object, Tagged, Unsupported
from antiphon.protocol.tool_fields import function_call, functions, tool_choice, tools

INT64 = 2**63
MAX_BIASES = 1024
"""Entries of ``logit_bias``."""

_RECORDED = "Written to the request's log line; no effect on the answer."
_HINT = "A hint: a model that cannot follow it answers without it, and the request's log line has it."


class Retention(Enumeration):
    """A choice whose wrong values have an error of their own."""

    def check(self, value: Any, path: str) -> None:
        if self.is_type(value) and value not in self.values:
            raise problems.bad_request(f"Invalid {path} argument", path)
        super().check(value, path)


stop = Either((String(min_length=1), Array(String(min_length=1), "strings", min_length=1, max_length=4)), nullable=True)
logit_bias = Mapping(Number(minimum=-100, maximum=100), max_properties=MAX_BIASES, nullable=True)
penalty = Number(minimum=-2, maximum=2, nullable=True)
temperature = Number(minimum=0, maximum=2, nullable=True)
top_p = Number(minimum=0, maximum=1, nullable=True)
n = Integer(minimum=1, maximum=128, nullable=True)
seed = Integer(minimum=-INT64, maximum=INT64 - 1, nullable=True)
user = String(note=_RECORDED)
stream_options = Object(
    {
        "include_usage": Flag(note="A last chunk carries the usage of the whole request."),
        "include_obfuscation": Flag(note="Pads every chunk to a multiple of 64 bytes; off unless asked for."),
    },
    nullable=True,
)
response_format = Tagged(
    "type",
    {
        "json_object": Object({"type": String()}, required=("type",)),
        "json_schema": Object(
            {
                "type": String(),
                "json_schema": Object(
                    {
                        "name": String(min_length=1, max_length=64, pattern=NAME_PATTERN),
                        "description": String(),
                        "schema": JsonObject(note="A JSON Schema; its keywords are enforced, or refused by name."),
                        "strict": Flag(nullable=True, note="Checks the schema against OpenAI's strict subset."),
                    },
                    required=("name",),
                ),
            },
            required=("type", "json_schema"),
        ),
        "text": Object({"type": String()}, required=("type",)),
    },
)
cache_mode = Enumeration(
    ("implicit", "explicit"), supported=("implicit",), note="Every prefix is cached, without marks in the prompt."
)
_prediction_content = Either((String(), Array(JsonObject(), "objects", min_length=1)))
_user_location = Object(
    {
        "type": Enumeration(("approximate",)),
        "approximate": Object({"country": String(), "region": String(), "city": String(), "timezone": String()}),
    },
    required=("type", "approximate"),
    nullable=True,
)

chat = Object(
    {
        "model": String(min_length=1),
        "messages": messages,
        "functions": functions,
        "function_call": function_call,
        "tools": tools,
        "tool_choice": tool_choice,
        "parallel_tool_calls": Flag(),
        "max_completion_tokens": Integer(minimum=1, nullable=True),
        "n": n,
        "temperature": temperature,
        "top_p": top_p,
        "presence_penalty": penalty,
        "frequency_penalty": penalty,
        "logprobs": Flag(nullable=True),
        "top_logprobs": Integer(minimum=0, maximum=20, nullable=True),
        "user": user,
        "seed": seed,
        "safety_identifier": String(max_length=64, nullable=True, note=_RECORDED),
        "prompt_cache_options": Object({"mode": cache_mode, "ttl": Unsupported(Enumeration(("30m",)))}),
        "prompt_cache_key": String(
            nullable=True, note="Recorded, and a hint for routing; the prefix cache needs no key."
        ),
        "prompt_cache_retention": Retention(("in_memory", "24h"), supported=("in_memory",), nullable=True),
        "service_tier": Enumeration(
            ("auto", "default", "fast", "flex", "priority"),
            nullable=True,
            note="There is one tier; the answer says 'default', whichever was asked for.",
        ),
        "stream": Flag(nullable=True),
        "store": Flag(nullable=True),
        "metadata": replace(METADATA, note=_RECORDED),
        "verbosity": Enumeration(("low", "medium", "high"), nullable=True, note=_HINT),
        "max_tokens": Integer(minimum=1, nullable=True, note="The older name of max_completion_tokens; not both."),
        "stop": stop,
        "logit_bias": logit_bias,
        "response_format": response_format,
        "stream_options": stream_options,
        "reasoning_effort": Enumeration(
            ("none", "minimal", "low", "medium", "high", "xhigh", "max"),
            nullable=True,
            note="Sets the switch of the model's template. " + _HINT,
        ),
        "modalities": Array(
            Enumeration(("text", "audio"), supported=("text",)), "strings", min_length=1, nullable=True
        ),
        "audio": Unsupported(
            Object({"voice": Either((String(), JsonObject())), "format": String()}, required=("voice", "format")),
            nullable=True,
        ),
        "prediction": Unsupported(
            Object({"type": Enumeration(("content",)), "content": _prediction_content}, required=("type", "content")),
            nullable=True,
        ),
        "web_search_options": Unsupported(
            Object({"user_location": _user_location, "search_context_size": Enumeration(("low", "medium", "high"))}),
        ),
        "moderation": Unsupported(
            Object({"model": String(min_length=1), "policy": JsonObject(nullable=True)}, required=("model",)),
            nullable=True,
        ),
    },
    required=("model", "messages"),
)
