"""Schemas become grammars that hold to the letter; what cannot be enforced is refused by name."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer

from antiphon.prompting.answer_grammar import answer_grammar
from antiphon.prompting.schemas.compile import (
    MAX_SCHEMA_CHARS,
    arguments_schema,
    bounded_schema_text,
    check_request,
    check_schema,
    schema_text,
)
from antiphon.protocol.chat import ChatRequest, JsonObjectFormat, JsonSchemaFormat, Message, Tool, ToolChoice
from antiphon.protocol.errors import ApiError

TOKENIZER = LLTokenizer("byte")


def check(schema: dict[str, Any]) -> None:
    check_schema(schema, what="response_format 'x'", param="response_format")


def refusal_of(schema: dict[str, Any]) -> str:
    with pytest.raises(ApiError) as caught:
        check(schema)
    return caught.value.message


def accepts(form: JsonSchemaFormat | JsonObjectFormat, text: str) -> bool:
    grammar = answer_grammar({}, calls=None, form=form, thinking=None)
    assert grammar is not None
    matcher = LLMatcher(TOKENIZER, grammar, log_level=0)
    data = list(text.encode())
    return matcher.try_consume_tokens(data) == len(data) and matcher.is_accepting()


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        ({"not": {"type": "string"}}, "not"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "object", "properties": {"a": {"if": {}}}}, "if"),
        ({"type": "array", "contains": {"type": "integer"}}, "contains"),
        ({"type": "object", "propertyNames": {"pattern": "a"}}, "propertyNames"),
        ({"type": "object", "dependentRequired": {"a": ["b"]}}, "dependentRequired"),
        ({"type": "object", "unevaluatedProperties": False}, "unevaluatedProperties"),
        ({"type": "string", "format": "shoe-size"}, "format"),
        ({"type": "string", "format": ["date"]}, "format"),
        ({"type": "string", "pattern": "^(?=a)b"}, "pattern"),
        ({"type": "string", "pattern": "\\bword\\b"}, "pattern"),
        (
            {"type": "object", "patternProperties": {"^(?=a)": {"type": "null"}}, "additionalProperties": False},
            "patternProperties",
        ),
        ({"type": "string", "pattern": "^(.{997})*$", "minLength": 99990}, "pattern"),
        ({"type": "object", "properties": {"a": {"type": "integer", "multipleOf": 1234567891}}}, "multipleOf"),
        ({"type": "object", "properties": {"a": {"type": "integer", "divisibleBy": 2}}}, "divisibleBy"),
        ({"type": "object", "properties": {"a": {"type": "string", "required": True}}}, "required"),
        ({"anyOf": [{"type": "string", "nullable": True}]}, "nullable"),
        ({"oneOf": [{"type": "string", "maxLength": 3}, {"type": "string", "minLength": 2}]}, "oneOf"),
        ({"type": "object", "properties": {"a": {}}, "minProperties": 1}, "minProperties"),
        ({"type": "object", "minProperties": 2}, "minProperties"),
    ],
)
def test_unenforceable_keyword(schema: dict[str, Any], keyword: str) -> None:
    """A keyword that no grammar here can enforce is refused, and the message names it."""
    with pytest.raises(ApiError, match=f"'{keyword}'") as caught:
        check(schema)
    assert (caught.value.status, caught.value.param) == (400, "response_format")


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "dict"}, "Invalid type: dict"),
        (
            {"$ref": "#/$defs/missing"},
            "the '$ref' '#/$defs/missing' does not point to a part of the schema, as '#/$defs/name' does, which is not permitted.",
        ),
        ({"allOf": [{"type": "string"}, {"type": "integer"}]}, "Unsatisfiable schema: incompatible types"),
        ({"type": "object", "properties": []}, "'properties' must be an object, but is an array."),
    ],
)
def test_impossible_schema(schema: dict[str, Any], reason: str) -> None:
    """A schema that is wrong or that nothing satisfies is refused with the reason, and nothing of our grammar."""
    with pytest.raises(ApiError) as caught:
        check(schema)
    assert caught.value.message == f"Invalid schema for response_format 'x': {reason}"


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "uniqueItems": False},
        {"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": {"propertyNames": True}},
        {"type": "object", "properties": {"nullable": {"type": "string"}, "not": {"type": "integer"}}},
        {"const": {"uniqueItems": False, "nullable": True}},
        {"type": "object", "properties": {"a": {"type": "string", "title": "A", "default": "x", "examples": [1]}}},
    ],
)
def test_harmless_schema(schema: dict[str, Any]) -> None:
    """Keywords that ask for nothing, and properties or data with a keyword's name, are no obstacle."""
    check(schema)


def test_a_declared_name_cannot_be_written_another_way() -> None:
    """A key after the declared ones is not a declared key written with escapes; control characters have them where a schema names one."""
    declared = {"type": "object", "properties": {"é": {"type": "integer"}}, "additionalProperties": {"type": "string"}}
    assert accepts(JsonSchemaFormat("x", declared), '{"b\\n\\"": "x"}')
    assert not accepts(JsonSchemaFormat("x", declared), '{"\\u00e9": "x"}')
    assert accepts(JsonSchemaFormat("x", {"const": "\x01"}), '"\\u0001"')


def test_one_name_that_is_not_declared_may_be_asked_for() -> None:
    """``minProperties`` is enforced where no two names have to be different that the schema does not know."""
    a = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "minProperties": 2}
    assert accepts(JsonSchemaFormat("x", a), '{"a": 1, "b": 2}')
    assert not accepts(JsonSchemaFormat("x", a), '{"a": 1}')
    assert not accepts(JsonSchemaFormat("x", a), '{"a": 1, "a": 2}')


def test_const_is_kept_as_it_is() -> None:
    """Data inside a schema is not taken for keywords."""
    form = JsonSchemaFormat("x", {"const": {"uniqueItems": False}})
    assert accepts(form, '{"uniqueItems": false}')
    assert not accepts(form, "{}")


def test_users_cannot_set_the_compilers_options() -> None:
    """Options of the grammar compiler inside a schema have no effect."""
    form = JsonSchemaFormat("x", {"type": "object", "x-guidance": {"lenient": True, "whitespace_flexible": True}})
    assert accepts(form, '{"a": 1}')
    assert not accepts(form, '{ "a":1}')


def test_one_layout() -> None:
    """Output has one layout, so that no model can go on writing blanks."""
    form = JsonObjectFormat()
    assert accepts(form, '{"a": [1, {"b": null}]}')
    assert not accepts(form, '{"a":  1}')
    assert not accepts(form, '{\n"a": 1}')
    assert not accepts(form, '["a"]')


def test_hostile_schemas_are_bounded() -> None:
    """A schema that is too large or too deep is refused before it is compiled."""
    with pytest.raises(ApiError, match="exceeds the limit"):
        check({"type": "string", "description": "x" * MAX_SCHEMA_CHARS})
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(5000):
        deep = {"type": "array", "items": deep}
    with pytest.raises(ApiError, match="nested too deeply"):
        check(deep)


def test_a_schema_is_worked_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is made of a schema is remembered: a request that brings it again costs no walk through it."""
    seen = {"type": "object", "properties": {"once": {"type": "string"}}}
    texts = [schema_text(seen), bounded_schema_text(seen)]
    monkeypatch.setattr("antiphon.prompting.schemas.compile.rewritten", None)
    monkeypatch.setattr("antiphon.prompting.schemas.compile.bounded", None)
    assert [schema_text(dict(seen)), bounded_schema_text(dict(seen))] == texts


@pytest.mark.parametrize(
    ("schema", "within", "beyond"),
    [
        ({"exclusiveMinimum": 0, "maximum": 0.5}, "0.01", "0"),
        ({"exclusiveMaximum": 0, "minimum": -0.5}, "-0.01", "-0"),
        ({"exclusiveMinimum": 1, "exclusiveMaximum": 1.5}, "1.2", "1"),
        ({"exclusiveMaximum": -97, "exclusiveMinimum": -97.5}, "-97.2", "-97"),
        ({"exclusiveMinimum": 0, "maximum": 1e-7}, "0.00000005", "0"),
        ({"exclusiveMinimum": 0, "allOf": [{"maximum": 0.5}]}, "0.5", "0"),
        ({"exclusiveMinimum": 10**12, "maximum": 10**12 + 0.5}, "1000000000000.25", "1000000000000"),
        ({"exclusiveMinimum": True, "minimum": 0, "exclusiveMaximum": False, "maximum": 0.5}, "0.5", "0"),
    ],
)
def test_short_ranges(schema: dict[str, Any], within: str, beyond: str) -> None:
    """An integer that a range shorter than 1 excludes is excluded, which the compiler by itself overlooks."""
    form = JsonSchemaFormat("x", {"type": "array", "items": {"type": "number", **schema}})
    assert accepts(form, f"[{within}]")
    assert not accepts(form, f"[{beyond}]")


def test_invented_keys_are_not_generated() -> None:
    """Where a function leaves open which other keys it takes, none are generated; where it says so, they are."""
    closed = arguments_schema(Tool("f", parameters={"type": "object", "properties": {"a": {"type": "integer"}}}))
    assert closed["additionalProperties"] is False
    stated = {"properties": {}, "additionalProperties": {"type": "integer"}}
    assert arguments_schema(Tool("f", parameters=stated)) == {**stated, "type": "object"}
    assert arguments_schema(Tool("f"))["additionalProperties"] is False


@pytest.mark.parametrize(
    ("tool", "param"),
    [
        (Tool("f", parameters={"type": "object", "not": {}}), "tools[0].function.parameters"),
        (Tool("f", kind="custom", grammar=("regex", "(")), "tools[0].custom.format.grammar.definition"),
        (Tool("f", kind="custom", grammar=("lark", "start: missing")), "tools[0].custom.format.grammar.definition"),
    ],
)
def test_tools_are_checked(tool: Tool, param: str) -> None:
    """A function's parameters and a custom tool's grammar are checked before anything is generated."""
    request = ChatRequest(model="m", messages=(Message("user", "Hi"),), tools=(tool,), tool_choice=ToolChoice("auto"))
    with pytest.raises(ApiError) as caught:
        check_request(request)
    assert caught.value.param == param


CASES = Path(os.environ.get("ANTIPHON_MASKBENCH", "/nonexistent"))


@pytest.mark.skipif(not CASES.is_file(), reason="ANTIPHON_MASKBENCH names no file of MaskBench cases")
def test_maskbench() -> None:
    """Of every schema that is accepted, the grammar takes no invalid instance; every other is refused in our terms."""
    taken = {True: [0, 0], False: [0, 0]}
    refused = 0
    for line in CASES.read_text().splitlines():
        case = json.loads(line)
        try:
            check(case["schema"])
        except ApiError:
            refused += 1
            continue
        for test in case["tests"]:
            text = json.dumps(test["data"], ensure_ascii=False)
            taken[test["valid"]][accepts(JsonSchemaFormat("x", case["schema"]), text)] += 1
    print(f"refused {refused}; valid [rejected, accepted] {taken[True]}, invalid {taken[False]}")  # noqa: T201
    assert taken[False][1] == 0
