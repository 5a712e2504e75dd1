"""Whatever a schema asks and whatever a model writes, grammar and parser stay within their contract."""

import json
import os
import random
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from tests.prompting.random_schemas import schemas

from antiphon.prompting import ChatPrompter, Plan
from antiphon.prompting.grammars.custom import problem_of_grammar
from antiphon.prompting.grammars.lark import of_user
from antiphon.protocol.chat import ChatRequest, JsonSchemaFormat, Message, Tool, ToolChoice
from antiphon.protocol.errors import ApiError
from antiphon.protocol.events import ChoiceFinished, Event, ReasoningDelta, TextDelta, ToolCallDelta, ToolCallStarted

EXAMPLES = int(os.environ.get("ANTIPHON_FUZZ_EXAMPLES", "100"))
FOLDER = Path(__file__).parent / "templates"
TOKENIZER = LLTokenizer("byte")
MARKS = ("<|tool_call|>", "<tool_call>", "</tool_call>", "<think>", "</think>", "[TOOL_CALLS]", "<|channel|>", "final")
NAMES = ("hermes", "mistral_v3", "mistral_v11", "granite3", "glm45", "minicpm3", "qwen3", "gpt_oss", "functionary32")

LARK = (
    *(
        "a",
        "b",
        "c",
        "A",
        "B",
        "start",
        '"x"',
        '"y"i',
        "/z+/",
        '"a".."c"',
        "(",
        ")",
        "[",
        "]",
        "|",
        "->",
        "n",
        "\n",
        "\n |",
    ),
    *("*", "+", "?", "{2}", "{,3}", "{1,}", "~ 2", "~ 0..2", "// c\n", "%ignore /_/\n", "a[lazy]: /q+r/\n"),
)
KNOWN = 'a: "1" a | "2"\nb: "3" c?\nc: b "4" | "5" c\nA: /[a-f]/ & ~/[ace]/\nB: A A\n'

outputs = st.lists(
    st.one_of(
        st.text(max_size=8), st.sampled_from([*MARKS, '{"name": "', "f", '", "arguments": ', "{", "}", '"', "\n"])
    )
).map("".join)


@cache
def family(name: str) -> ChatPrompter:
    return ChatPrompter(template=(FOLDER / f"{name}.jinja").read_text(), control_tokens=MARKS[:1])


def plan_for(name: str, schema: Any, *, as_tool: bool) -> Plan | None:
    message = (Message("user", "Hi"),)
    try:
        if as_tool:
            tool = Tool("f", parameters=schema)
            choice = ToolChoice("auto")
            return family(name).plan(ChatRequest(model="m", messages=message, tools=(tool,), tool_choice=choice))
        form = JsonSchemaFormat("x", schema)
        return family(name).plan(ChatRequest(model="m", messages=message, response_format=form))
    except ApiError as error:
        assert error.status == 400  # noqa: PT017 - a refusal is one of two good outcomes
        return None


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(NAMES), schemas, st.booleans(), st.binary(max_size=60) | outputs.map(str.encode), st.data())
def test_any_schema_and_any_output(name: str, schema: Any, as_tool: bool, output: bytes, data: st.DataObject) -> None:
    """A schema is refused with a 400 or compiles; the matcher takes or rejects bytes; the parser reads all text."""
    plan = plan_for(name, schema, as_tool=as_tool)
    if plan is None:
        return
    if plan.grammar is not None:
        limits = LLParserLimits(initial_lexer_fuel=1_000_000)
        matcher = LLMatcher(TOKENIZER, plan.grammar, log_level=0, limits=limits)
        assert matcher.get_error() == ""
        matcher.try_consume_tokens(list(output))
    text = output.decode("utf-8", "replace")
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert merged(read(plan, pieces)) == merged(read(plan, [text]))


lark = st.lists(st.sampled_from(LARK), max_size=14).map(lambda parts: f"start: {' '.join(parts)}\n{KNOWN}")


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(lark, st.randoms(use_true_random=False))
def test_any_grammar_of_a_custom_tool(definition: str, chance: random.Random) -> None:
    """A grammar is refused with a message, or every text that follows it can be continued to its end."""
    if problem_of_grammar("lark", definition) is not None:
        return
    matcher = LLMatcher(TOKENIZER, of_user(definition), log_level=0)
    for _ in range(40):
        mask = matcher.compute_logit_bias()
        allowed = [byte for byte in range(256) if mask[byte]]
        assert not matcher.is_error() or matcher.is_accepting()
        if not allowed or matcher.is_stopped():
            break
        assert matcher.consume_token(chance.choice(allowed))
    assert allowed or matcher.is_accepting()


def read(plan: Plan, pieces: list[str]) -> list[Event]:
    parser = plan.parser(0)
    events = [event for piece in pieces for event in parser.feed(piece)]
    return [*events, *parser.finish("length")]


def merged(events: list[Event]) -> list[Any]:
    """Join consecutive deltas: how the text was cut must not show in the whole."""
    whole: list[Any] = []
    for event in events:
        match event:
            case TextDelta() | ReasoningDelta():
                entry, text = [type(event).__name__, 0], event.text
            case ToolCallDelta():
                entry, text = ["arguments", event.call], event.arguments
            case ToolCallStarted():
                entry, text = ["call", event.name], ""
            case _:
                assert isinstance(event, ChoiceFinished)
                entry, text = ["finished", 0], event.reason
        if whole and whole[-1][:2] == entry:
            whole[-1][2] += text
        else:
            whole.append([*entry, text])
    return whole


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(NAMES),
    st.dictionaries(st.sampled_from(["city", "note"]), st.text(), min_size=1),
    st.lists(st.integers(0, 400), max_size=6),
)
def test_calls_in_any_pieces(name: str, arguments: dict[str, str], cuts: list[int]) -> None:
    """A call that follows the syntax is read back the same, however its text is cut and whatever its strings hold."""
    text = {"type": "string"}
    schema = {"type": "object", "properties": {"city": text, "note": text}}
    plan = plan_for(name, schema, as_tool=True)
    assert plan is not None
    syntax = plan.layout.syntax
    assert syntax is not None
    if syntax.key_values is not None and syntax.key_values.raw:
        arguments = {key: value for key, value in arguments.items() if syntax.key_values.ending.strip() not in value}
    written = syntax.write([("f", json.dumps(arguments))])
    places = sorted(min(cut, len(written)) for cut in cuts)
    pieces = [written[a:b] for a, b in zip([0, *places], [*places, len(written)], strict=True)]
    calls = [entry for entry in merged(read(plan, pieces)) if entry[0] == "arguments"]
    assert len(calls) == 1
    assert json.loads(calls[0][2]) == arguments
