"""Whatever JSON arrives, the parsers answer with a request or with a 400: never with another exception."""

import copy
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.protocol.malformed import CALL, TOOL, USER

from antiphon.protocol import ApiError, parse_chat, parse_completion, parse_embedding

SCHEMA = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
CHAT: dict[str, Any] = {
    "model": "m",
    "messages": [
        {"role": "system", "content": "s", "name": "n"},
        USER | {"content": [{"type": "text", "text": "json"}]},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "1"},
    ],
    "tools": [TOOL, {"type": "custom", "custom": {"name": "c", "format": {"type": "text"}}}],
    "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [TOOL]}},
    "parallel_tool_calls": True,
    "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}},
    "stop": ["a"],
    "logit_bias": {"1": 2},
    "metadata": {"a": "b"},
    "stream": True,
    "stream_options": {"include_usage": True},
    "temperature": 1.0,
    "n": 1,
}
CHAT["tool_choice"]["allowed_tools"]["tools"] = [{"type": "function", "function": {"name": "f"}}]
OLDER: dict[str, Any] = {
    "model": "m",
    "messages": [
        USER,
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "1"},
    ],
    "functions": [{"name": "f", "parameters": {"type": "object", "properties": {}}}],
    "function_call": {"name": "f"},
}
COMPLETION: dict[str, Any] = {"model": "m", "prompt": [[1, 2]], "best_of": 1, "echo": True, "logprobs": 1, "stop": "a"}
EMBEDDING: dict[str, Any] = {"model": "m", "input": ["a"], "dimensions": 2, "encoding_format": "float"}
BODIES = [(parse_chat, CHAT), (parse_chat, OLDER), (parse_completion, COMPLETION), (parse_embedding, EMBEDDING)]

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value, the root first."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inside for place in places(item, (*path, key)))]


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    changed = copy.deepcopy(value)
    parent = changed
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = new
    return changed


@pytest.mark.parametrize("number", range(len(BODIES)))
def test_the_bodies_are_right_as_they_stand(number: int) -> None:
    """So that what is changed in them is what is judged."""
    parse, body = BODIES[number]
    parse(body)


@settings(deadline=None, derandomize=True, max_examples=600, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_one_wrong_value_anywhere(data: st.DataObject) -> None:
    """Any value in place of any part of a right body is judged, and the error names something."""
    parse, body = data.draw(st.sampled_from(BODIES))
    path = data.draw(st.sampled_from(places(body)))
    try:
        parse(replaced(body, path, data.draw(JSON)))
    except ApiError as error:
        assert error.status == 400  # noqa: PT017 - a right value may be drawn as well
        assert error.message  # noqa: PT017 - the same


@settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(JSON)
@example({"model": "m", "messages": [[]]})
def test_anything_at_all(value: Any) -> None:
    """Values that are no request are refused by every parser."""
    for parse in (parse_chat, parse_completion, parse_embedding):
        with pytest.raises(ApiError):
            parse(value)
