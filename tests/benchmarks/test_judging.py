"""The programs that judge what a model wrote see what is wrong with it."""

from collections import Counter
from typing import Any

import pytest
from benchmarks.calls import problem_of_calls, read_case
from benchmarks.calls import report as report_calls
from benchmarks.guide import heads_of_call
from benchmarks.structure import Case, Outcome, is_defect, keyword_of, mask_times, problem_of, report

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"format": "date"}}, "required": ["a"]}
REFUSAL = "Error code: 400 - Invalid schema for response_format 'example': 'not' cannot be enforced here."


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"a": 1}', None),
        ('{"a": 1', "no JSON"),
        ('{"a": "1"}', "not of type 'integer'"),
        ('{"a": 1, "b": "2026-02-30"}', "is not a 'date'"),
    ],
)
def test_an_answer_is_judged_by_its_schema(text: str, problem: str | None) -> None:
    """JSON that follows the schema, formats included, is fine; anything else gives the reason."""
    found = problem_of(SCHEMA, text)
    assert found is None if problem is None else problem in (found or "")


def test_the_draft_that_a_schema_names_decides() -> None:
    """Whether keywords next to a reference count depends on the draft."""
    schema: dict[str, Any] = {"$ref": "#/$defs/a", "maxLength": 1, "$defs": {"a": {"type": "string"}}}
    assert problem_of(schema, '"long"')
    assert problem_of({"$schema": "http://json-schema.org/draft-07/schema#", **schema}, '"long"') is None


def test_figures_tell_every_case_apart() -> None:
    """Valid, invalid, cut, asked again and refused answers each have a line; only some are defects."""
    outcomes = [
        Outcome("good", 1.0, 8, tokens=5, text="{}", reason="stop"),
        Outcome("bad", 1.0, 8, tokens=5, text="1", reason="stop", problem="$: 1 is no object"),
        Outcome("long", 1.0, 8, reason="length"),
        Outcome("long", 1.0, 32, tokens=20, reason="stop"),
        Outcome("endless", 1.0, 8, reason="length"),
        Outcome("endless", 1.0, 32, refused="The context is too short", code="context_length_exceeded"),
        Outcome("refused", 1.0, 8, refused=REFUSAL),
    ]
    text = report([Case(name, {}) for name in "abcde"], outcomes)
    assert text.splitlines() == [
        "temperature 1: 5 of 5 schemas asked, 4 accepted, 1 refused",
        "  complete 3, of them valid 2, 30 tokens",
        "  cut at 8 tokens: 2",
        "  still cut: endless",
        "  NOT VALID bad: $: 1 is no object",
        "refused by:",
        "    1 not",
    ]
    assert [outcome.name for outcome in outcomes if is_defect(outcome)] == ["bad"]
    assert keyword_of(REFUSAL) == "not"


def test_a_refusal_without_a_reason_is_a_defect() -> None:
    """An error that does not say what of the schema is at fault counts as one of ours."""
    assert is_defect(Outcome("x", 1.0, 8, refused="The server had an error"))


def test_mask_times_are_read_from_the_metrics() -> None:
    """The bounds that half and nearly all observations keep, over all models."""
    line = 'antiphon_engine_mask_s_bucket{{le="{}",model="{}"}} {}'
    counts = [("1e-05", 40), ("0.0001", 98), ("0.001", 100), ("+Inf", 100)]
    metrics = "\n".join(
        line.format(bound, model, n)
        for model, share in (("m", 1), ("e", 0))
        for bound, c in counts
        for n in [c * share]
    )
    assert mask_times(metrics) == "masks: 100, half of them within 100 us, 99 % within 1000 us"
    assert mask_times("") == "no mask was needed"


ROW: dict[str, Any] = {
    "id": "simple_0",
    "question": [[{"role": "user", "content": "Area?"}]],
    "function": [
        {
            "name": "math.area",
            "description": "",
            "parameters": {
                "type": "dict",
                "properties": {"type": {"type": "float"}, "all": {"type": "tuple", "items": {"type": "any"}}},
                "required": ["type"],
            },
        }
    ],
    "ground_truth": [{"math.area": {"type": [1.0]}}],
}


def test_the_leaderboards_rows_are_put_in_openais_terms() -> None:
    """Dots in names and Python's types become what the API takes; a property named `type` stays one."""
    case = read_case(ROW)
    assert case.wanted == {"math_area"}
    assert case.tools[0]["function"]["name"] == "math_area"
    properties = {"type": {"type": "number"}, "all": {"type": "array", "items": {}}}
    assert case.tools[0]["function"]["parameters"] == {"type": "object", "properties": properties, "required": ["type"]}
    del ROW["ground_truth"]
    assert not read_case(ROW).wanted


@pytest.mark.parametrize(
    ("calls", "problem"),
    [
        ([("math_area", '{"type": 1.5}')], None),
        ([], "no call"),
        ([("area", "{}")], "no function"),
        ([("math_area", "{")], "no JSON"),
        ([("math_area", "{}"), ("math_area", '{"type": 1}')], "required"),
    ],
)
def test_calls_are_judged(calls: list[tuple[str, str]], problem: str | None) -> None:
    """A call parses, names a tool and follows its schema, or the fault is named."""
    found = problem_of_calls(read_case(ROW), calls)
    assert found is None if problem is None else problem in (found or "")


def test_the_figures_of_calls() -> None:
    """What is neither cut nor invalid is valid."""
    text = report_calls(Counter({"asked": 9, "cut": 2, "invalid": 1, "calls wanted": 4, "called where wanted": 3}))
    assert text.startswith("required or named: 9 asked, 0 refused, 2 cut by length, 6 valid, 0 another when streamed")
    assert "called in 3 of 4" in text


@pytest.mark.parametrize(
    ("name", "arguments", "heads"),
    [
        ("get_current_weather", '{"city": "Tokyo"}', ["calls with a city", "calls with Tokyo"]),
        ("get_current_weather", '{"city": "Takao", "unit": "celsius"}', ["calls with a city"]),
        ("get_current_weather", '{"city": ""}', []),
        ("get_current_weather", '{"city": "Tok', []),
        ("get_time", '{"city": "Tokyo"}', []),
    ],
)
def test_calls_of_the_guide(name: str, arguments: str, heads: list[str]) -> None:
    """A call counts if it is of the function that was offered, with a city."""
    assert heads_of_call(name, arguments) == heads
