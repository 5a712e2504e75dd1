"""Each parameter that OpenAI documents is enforced, recorded or refused here; none is accepted and ignored."""

import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.protocol import malformed

from antiphon.protocol import ApiError, parse_chat, parse_completion, parse_embedding
from antiphon.protocol.chat_fields import chat
from antiphon.protocol.client_fields import CLIENT_FIELDS
from antiphon.protocol.completion_request import completion
from antiphon.protocol.embedding_request import embedding
from antiphon.protocol.fields import Spec
from antiphon.protocol.responses import parse_response
from antiphon.protocol.responses.fields import responses
from antiphon.protocol.shapes import Array, Either, Object, Tagged, Unsupported

HERE = Path(__file__).parent
OPENAI: dict[str, list[str]] = json.loads((HERE / "openai_parameters.json").read_text())
DOCS = (HERE.parents[1] / "docs" / "api.md").read_text()
TABLES = {"chat/completions": chat, "completions": completion, "embeddings": embedding, "responses": responses}
PARSERS = {
    "chat/completions": partial(parse_chat, can_store=True),
    "completions": parse_completion,
    "embeddings": parse_embedding,
    "responses": parse_response,
}

SCHEMA = {"type": "object", "properties": {}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}
USER = {"role": "user", "content": "hi"}

# A value of each parameter that differs from its default, with what else the parameter needs.
SHARED: dict[str, dict[str, Any]] = {
    "model": {"model": "other"},
    "temperature": {"temperature": 0.3},
    "top_p": {"top_p": 0.3},
    "presence_penalty": {"presence_penalty": 1},
    "frequency_penalty": {"frequency_penalty": 1},
    "logit_bias": {"logit_bias": {"5": 1}},
    "seed": {"seed": 1},
    "max_tokens": {"max_tokens": 5},
    "n": {"n": 2},
    "stop": {"stop": "x"},
    "stream": {"stream": True},
    "stream_options": {"stream_options": {"include_usage": True}, "stream": True},
    "user": {"user": "x"},
}
CHAT = SHARED | {
    "messages": {"messages": [USER, USER]},
    "max_completion_tokens": {"max_completion_tokens": 5},
    "logprobs": {"logprobs": True},
    "top_logprobs": {"top_logprobs": 3, "logprobs": True},
    "tools": {"tools": [TOOL]},
    "tool_choice": {"tool_choice": "required", "tools": [TOOL]},
    "parallel_tool_calls": {"parallel_tool_calls": False, "tools": [TOOL]},
    "functions": {"functions": [{"name": "f"}]},
    "function_call": {"function_call": {"name": "f"}, "functions": [{"name": "f"}]},
    "response_format": {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
    "reasoning_effort": {"reasoning_effort": "high"},
    "safety_identifier": {"safety_identifier": "x"},
    "metadata": {"metadata": {"a": "b"}},
    "service_tier": {"service_tier": "flex"},
    "prompt_cache_key": {"prompt_cache_key": "x"},
    "prompt_cache_retention": {"prompt_cache_retention": "24h"},
    "prompt_cache_options": {"prompt_cache_options": {"ttl": "30m"}},
    "verbosity": {"verbosity": "high"},
    "modalities": {"modalities": ["audio"]},
    "audio": {"audio": {"voice": "alloy", "format": "wav"}},
    "prediction": {"prediction": {"type": "content", "content": "x"}},
    "web_search_options": {"web_search_options": {}},
    "moderation": {"moderation": {"model": "omni-moderation-latest"}},
    "store": {"store": True},
}
COMPLETION = SHARED | {
    "prompt": {"prompt": "other"},
    "suffix": {"suffix": "x"},
    "best_of": {"best_of": 3},
    "echo": {"echo": True},
    "logprobs": {"logprobs": 2},
}
EMBEDDING = {
    "model": {"model": "other"},
    "input": {"input": "other"},
    "dimensions": {"dimensions": 3},
    "encoding_format": {"encoding_format": "base64"},
    "user": {"user": "x"},
}
FUNCTION = {"type": "function", "name": "f", "parameters": SCHEMA}
RESPONSES = {
    "model": {"model": "other"},
    "input": {"input": "other"},
    "instructions": {"instructions": "x"},
    "previous_response_id": {"previous_response_id": "resp_x"},
    "conversation": {"conversation": "conv_x"},
    "store": {"store": False},
    "background": {"background": True},
    "stream": {"stream": True},
    "stream_options": {"stream_options": {"include_obfuscation": True}, "stream": True},
    "include": {"include": ["reasoning.encrypted_content"]},
    "tools": {"tools": [FUNCTION]},
    "tool_choice": {"tool_choice": "required", "tools": [FUNCTION]},
    "parallel_tool_calls": {"parallel_tool_calls": False},
    "max_tool_calls": {"max_tool_calls": 3},
    "max_output_tokens": {"max_output_tokens": 16},
    "temperature": {"temperature": 0.3},
    "top_p": {"top_p": 0.3},
    "top_logprobs": {"top_logprobs": 3},
    "text": {"text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}},
    "reasoning": {"reasoning": {"effort": "high"}},
    "truncation": {"truncation": "auto"},
    "metadata": {"metadata": {"a": "b"}},
    "user": {"user": "x"},
    "safety_identifier": {"safety_identifier": "x"},
    "prompt_cache_key": {"prompt_cache_key": "x"},
    "prompt_cache_retention": {"prompt_cache_retention": "24h"},
    "prompt_cache_options": {"prompt_cache_options": {"prewarm": True}},
    "service_tier": {"service_tier": "flex"},
    "context_management": {"context_management": [{"type": "compaction", "compact_threshold": 1000}]},
    "prompt": {"prompt": {"id": "pmpt_x"}},
    "moderation": {"moderation": {"model": "m"}},
}
OPAQUE_IN_RESPONSES = {"responses": ("input", "tools", "tool_choice", "context_management")}
PROBES = {"chat/completions": CHAT, "completions": COMPLETION, "embeddings": EMBEDDING, "responses": RESPONSES}
BASES = {
    "chat/completions": {"model": "m", "messages": [USER]},
    "completions": {"model": "m", "prompt": "hi"},
    "embeddings": {"model": "m", "input": "hi"},
    "responses": {"model": "m", "input": "hi"},
}

# What this server takes in a history beyond OpenAI's document.
OURS = {"messages[].annotations", "messages[].reasoning_content", "messages[].reasoning", *CLIENT_FIELDS}
# What clients send beyond the document to /v1/responses, and fields of the newer client.
OURS_IN_RESPONSES = {
    "client_metadata", "access_programs", "multi_agent", "image", "image.context_compression", "background_options",
    "background_options.completion_window", "background_options.continuation_id",
    "prompt_cache_options.mode", "prompt_cache_options.ttl", "prompt_cache_options.prewarm",
    "prompt_cache_options.comparison_response_id",
    "presence_penalty", "frequency_penalty",  # Open Responses
}  # fmt: skip


def top_level(operation: str) -> list[str]:
    return [path for path in OPENAI[operation] if "." not in path and "[" not in path]


def documented(operation: str) -> dict[str, str]:
    """The first two columns of the endpoint's table in docs/api.md."""
    section = DOCS.split(f"## `POST /v1/{operation}`", 1)[1].split("\n## ", 1)[0]
    return dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", section, re.MULTILINE))


def value_of(operation: str, body: dict[str, Any]) -> dict[str, Any]:
    """The parsed request without its raw JSON."""
    return {key: value for key, value in msgspec.structs.asdict(PARSERS[operation](body)).items() if key != "raw"}


@pytest.mark.parametrize("operation", PROBES)
def test_every_parameter_has_one_effect(operation: str) -> None:
    """A parameter's value changes what the layers below see, or is refused; the documentation says which."""
    says = documented(operation)
    assert sorted(says) == sorted(top_level(operation)) == sorted(PROBES[operation])
    for name, probe in PROBES[operation].items():
        with_it = BASES[operation] | probe
        without = BASES[operation] | {key: value for key, value in probe.items() if key != name}
        if says[name] == "refused":
            with pytest.raises(ApiError) as caught:
                value_of(operation, with_it)
            assert caught.value.code in {"unsupported_parameter", "unsupported_value"}
            assert re.split(r"[.\[]", str(caught.value.param))[0] == name
        else:
            assert says[name] in {"enforced", "recorded"}
            assert value_of(operation, with_it) != value_of(operation, without), name


def paths(spec: Spec, prefix: str = "") -> Iterator[str]:
    """The paths of every field in our tables; what is refused as a whole ends at its name and ``*``."""
    match spec:
        case Unsupported():
            yield f"{prefix}*"
        case Array():
            yield from paths(spec.item, f"{prefix}[]")
        case Either():
            for part in spec.specs:
                yield from paths(part, prefix)
        case Tagged():
            for variant in spec.variants.values():
                yield from paths(variant, prefix)
        case Object():
            for name, value in spec.fields.items():
                path = f"{prefix}.{name}" if prefix else name
                yield path
                yield from paths(value, path)
        case _:
            pass


@pytest.mark.parametrize("operation", TABLES)
def test_every_nested_parameter_is_known(operation: str) -> None:
    """No documented field, however deep, is unknown here; and nothing is known here that nobody documents."""
    found = set(paths(TABLES[operation]))
    refused = tuple(path[:-1] for path in found if path.endswith("*"))
    missing = [path for path in OPENAI[operation] if path not in found and not path.startswith(refused or "\0")]
    assert missing == []
    ours = {path for path in found if not path.endswith("*")}
    inside_lists = {
        "tool_choice.allowed_tools.tools[]",
        *OPAQUE_IN_RESPONSES.get(operation, ()),
    }  # free-form objects in the document
    extra = {path for path in ours - set(OPENAI[operation]) if not path.startswith(tuple(inside_lists))}
    assert extra <= OURS | OURS_IN_RESPONSES


def test_every_field_of_a_client_is_documented() -> None:
    """The page lists what is accepted because clients send it, in the words of the table."""
    section = DOCS.split("### Fields that clients add", 1)[1].split("\n## ", 1)[0]
    assert dict(re.findall(r"^\| `([^`]+)` \| (.+) \|$", section, re.MULTILINE)) == CLIENT_FIELDS
    assert set(CLIENT_FIELDS) <= set(paths(chat))


def test_every_code_is_documented() -> None:
    """Each code that a malformed request can bring has a line on the page."""
    codes = {case.code for case in malformed.ALL if case.code}
    table = DOCS.split("## Codes of a malformed request", 1)[1].split("\n## ", 1)[0]
    assert codes <= set(re.findall(r"`(\w+)`", table))
