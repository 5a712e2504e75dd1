"""The OpenAPI document says what is accepted and what is answered."""

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from tests.protocol import malformed
from tests.protocol.malformed import Malformed

from antiphon.protocol import parse_chat
from antiphon.protocol.events import ChoiceFinished, Completed, Started, TextDelta, Usage
from antiphon.protocol.openapi import openapi_document
from antiphon.protocol.rendering import ChatBody, ChatStream

DOCUMENT = openapi_document("0.0.0")
SCHEMAS = {
    "chat/completions": "ChatCompletionRequest",
    "completions": "CompletionRequest",
    "embeddings": "EmbeddingRequest",
}
USER = {"role": "user", "content": "hi"}


def validator(name: str) -> Draft202012Validator:
    return Draft202012Validator({"$ref": f"#/components/schemas/{name}", **DOCUMENT})


def test_it_is_json_and_every_reference_resolves() -> None:
    """Schemas are valid JSON Schema, and paths name only schemas that exist."""
    text = json.dumps(DOCUMENT)
    names = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert names <= set(DOCUMENT["components"]["schemas"])
    for schema in DOCUMENT["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def is_in_words(case: Malformed) -> bool:
    """Whether a row needs two fields, a pattern of names, or the difference between 1 and 1.0: no matter of schemas."""
    with_others = {"max_tokens", "top_logprobs", "logit_bias", "metadata." + "k" * 70}
    is_content = (case.message or "").startswith("Invalid value for 'content'")
    is_value = case.body == {"model": "m", "messages": [USER], "n": 1}
    return (case.param in with_others and case.code != "integer_below_min_value") or is_content or is_value


ROWS = [*malformed.BODIES, *malformed.MESSAGES, *malformed.PARTS, *malformed.NUMBERS, *malformed.EMBEDDINGS]


@pytest.mark.parametrize("case", [row for row in ROWS if not is_in_words(row)], ids=lambda case: case.name)
def test_what_is_malformed_by_itself_is_so_by_the_document(case: Malformed) -> None:
    """Types, ranges, lengths and names are all in the schemas."""
    assert not validator(SCHEMAS[case.operation]).is_valid(case.body)


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": None, "stop": ["a"], "logit_bias": {"1": 5}, "stream": True},
        {"tools": [malformed.TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]},
    ],
)
def test_what_is_accepted_is_valid(fields: dict[str, Any]) -> None:
    """A request that the parser takes satisfies the document."""
    body = {"model": "m", "messages": [USER]} | fields
    parse_chat(body)
    validator("ChatCompletionRequest").validate(body)


def test_answers_are_as_described() -> None:
    """Rendered bodies and chunks satisfy their schemas."""
    asked = parse_chat({"model": "m", "messages": [USER], "stream": True, "stream_options": {"include_usage": True}})
    body, stream = ChatBody("i", 1, asked), ChatStream("i", 1, asked)
    for event in (Started("m", 1), TextDelta(0, "a"), ChoiceFinished(0, "stop"), Completed(Usage(1, 1))):
        body.feed(event)
        for frame in stream.feed(event):
            validator("ChatCompletionChunk").validate(json.loads(frame[6:]))
    validator("ChatCompletion").validate(json.loads(body.encoded()))
