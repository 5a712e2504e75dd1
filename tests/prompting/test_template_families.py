# ruff: noqa: RUF001 - tokens of DeepSeek hold wide bars
"""The tool syntax of each model family is read off its template, and calls survive the way there and back.

The templates in this folder are reduced ones, written for these tests with the families' own syntax.
``ANTIPHON_TEMPLATES`` may name a folder of originals (``*.jinja``); each must be detected or refused cleanly.
"""

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from llguidance import LLMatcher, LLTokenizer

from antiphon.prompting import ChatPrompter, Plan
from antiphon.protocol.chat import ChatRequest, FunctionCall, JsonSchemaFormat, Message, Tool, ToolCall, ToolChoice
from antiphon.protocol.errors import ApiError
from antiphon.protocol.events import ChoiceFinished, Event, ReasoningDelta, TextDelta, ToolCallDelta, ToolCallStarted

FOLDER = Path(__file__).parent / "templates"
ENDS = (
    "<|im_end|>",
    "<|eot_id|>",
    "</s>",
    "<｜end▁of▁sentence｜>",
    "<|end_of_text|>",
    "<|END_OF_TURN_TOKEN|>",
    "<end_of_turn>",
    "<|return|>",
    "<|call|>",
    "<|user|>",
    "<|observation|>",
    "<seed:eos>",
)
TOKEN = re.compile(r"<\|[^|<>\s]+\|>|<｜[^｜\s]+｜>|\[/?[A-Z_]{3,}\]|<(?:start|end)_of_turn>|<seed:[be]os>")

WEATHER = Tool(
    name="get_weather",
    description="Get the weather in a city.",
    parameters={
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer"},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
        },
        "required": ["city"],
        "additionalProperties": False,
    },
)
CLOCK = Tool(name="get_time", description="Get the time.")
CALLS = [("get_weather", {"city": 'S\u00e3o "P"\n', "days": 3, "unit": "celsius"}), ("get_time", {})]

NATIVE = {
    "command_r7b": 2,
    "deepseek_v3": 2,
    "deepseek_v31": 2,
    "functionary31": 2,
    "functionary32": 2,
    "glm45": 2,
    "gpt_oss": 1,
    "granite3": 2,
    "hermes": 2,
    "kimi_k2": 2,
    "llama31": 1,
    "llama4_pythonic": 2,
    "minicpm3": 2,
    "mistral_v11": 2,
    "mistral_v3": 2,
    "phi4_mini": 2,
    "qwen3": 2,
    "qwen3_coder": 2,
    "seed_oss": 2,
}
GENERIC = ("deepseek_r1", "gemma3", "smollm3")
REFUSED = ("gemma4",)


def prompter(source: str) -> ChatPrompter:
    control = (*dict.fromkeys(TOKEN.findall(source)), "</s>")
    ends = tuple(token for token in control if token in ENDS)
    return ChatPrompter(
        template=source, bos_token="<s>", eos_token="</s>", control_tokens=control, end_tokens=ends or ("<|end|>",)
    )


def family(name: str) -> ChatPrompter:
    return prompter((FOLDER / f"{name}.jinja").read_text())


def request(*messages: Message, mode: str = "auto", parallel: bool = True) -> ChatRequest:
    return ChatRequest(
        model="m",
        messages=messages or (Message("user", "Weather?"),),
        tools=(WEATHER, CLOCK),
        tool_choice=ToolChoice(mode),
        parallel_tool_calls=parallel,
    )


def planned(prompter: ChatPrompter, request: ChatRequest) -> Plan:
    """Plan with vectors by which the first tool is the nearest."""
    question = prompter.question(request)
    if question is None:
        return prompter.plan(request)
    return prompter.plan(request, prompter.selector.choose(question, [[1.0, 0.0]] * 3 + [[0.9, 0.1]] * 2))


def text_of(plan: Plan) -> str:
    return "".join(piece.text for piece in plan.prompt)


def read(plan: Plan, chunks: Iterable[str]) -> tuple[list[tuple[str, object]], str, str, str]:
    parser = plan.parser(0)
    events: list[Event] = [event for chunk in chunks for event in parser.feed(chunk)]
    events += parser.finish("stop")
    calls: list[list[str]] = []
    for event in events:
        if isinstance(event, ToolCallStarted):
            calls.append([event.name, ""])
        if isinstance(event, ToolCallDelta):
            calls[event.call][1] += event.arguments
    said = "".join(event.text for event in events if isinstance(event, TextDelta))
    thought = "".join(event.text for event in events if isinstance(event, ReasoningDelta))
    assert isinstance(events[-1], ChoiceFinished)
    return [(name, json.loads(text)) for name, text in calls], said, thought, events[-1].reason


def history(calls: list[tuple[str, object]]) -> tuple[Message, ...]:
    made = tuple(
        ToolCall(f"call_{number:024d}", FunctionCall(name, json.dumps(arguments)))
        for number, (name, arguments) in enumerate(calls)
    )
    results = (Message("tool", f"Result {number}.", tool_call_id=call.id) for number, call in enumerate(made))
    return (Message("user", "Weather?"), Message("assistant", None, tool_calls=made), *results)


@pytest.mark.parametrize("name", NATIVE)
def test_round_trip(name: str) -> None:
    """Calls that the template writes are read back the same, in one piece and letter by letter."""
    profile = family(name)
    calls = CALLS[: NATIVE[name]]
    syntax = profile.plan(request()).layout.syntax
    assert syntax is not None
    text = syntax.write([(function, json.dumps(arguments)) for function, arguments in calls])
    plan = profile.plan(request())
    for chunks in ([text], list(text)):
        assert read(plan, chunks) == (calls, "", "", "tool_calls")


@pytest.mark.parametrize("name", NATIVE)
def test_written_as_the_template_writes(name: str) -> None:
    """The detected syntax writes a history's calls exactly as the template does, ids and running numbers aside."""
    profile = family(name)
    calls = CALLS[: NATIVE[name]]
    plan = profile.plan(request(*history(calls)))
    syntax = plan.layout.syntax
    assert syntax is not None
    wanted = syntax.write([(function, json.dumps(arguments, ensure_ascii=False)) for function, arguments in calls])
    digits = re.compile(r"[0-9a-f]{9}|\d+")
    shown = text_of(plan) if syntax.arguments == "object" else text_of(plan).replace("\\u00e3", "\u00e3")
    assert digits.sub("#", wanted) in digits.sub("#", shown)


@pytest.mark.parametrize("name", NATIVE)
@pytest.mark.parametrize("mode", ["auto", "required"])
def test_grammar(name: str, mode: str) -> None:
    """The grammar takes well-formed calls, and text only where calls are not required."""
    plan = family(name).plan(request(mode=mode))
    syntax = plan.layout.syntax
    assert syntax is not None
    assert plan.grammar is not None
    opening = next(iter(plan.layout.wrappers), "")
    calls = [(function, json.dumps(arguments, ensure_ascii=False)) for function, arguments in CALLS[: NATIVE[name]]]
    good = syntax.space * (not syntax.anywhere or mode == "required") + syntax.write(calls)
    assert accepts(plan.grammar, good)
    assert accepts(plan.grammar, opening + "Hello") == (mode == "auto")
    assert not accepts(plan.grammar, good.replace("celsius", "kelvin"))
    assert not accepts(plan.grammar, good.replace("get_weather", "get_wetter"))


def accepts(grammar: str, text: str) -> bool:
    assert LLMatcher.validate_grammar(grammar) == ""
    matcher = LLMatcher(TOKENIZER, grammar, log_level=0)
    data = list(text.encode())
    return matcher.try_consume_tokens(data) == len(data) and matcher.is_accepting()


TOKENIZER = LLTokenizer("byte")


@pytest.mark.parametrize("name", [*NATIVE, *GENERIC])
def test_several_turns(name: str) -> None:
    """A history of calls, results and text is shown whole, and text that accompanies calls is not lost."""
    calls = CALLS[: NATIVE.get(name, 2)]
    asked, called, *results = history(calls)
    spoken = Message("assistant", "Let me see.", tool_calls=called.tool_calls)
    messages = (Message("system", "Be kind."), asked, spoken, *results, Message("assistant", "Sunny."), asked)
    text = text_of(planned(family(name), request(*messages)))
    for part in ("Be kind.", "Let me see.", "get_weather", "Result 0.", "Sunny."):
        assert part in text


@pytest.mark.parametrize("name", GENERIC)
def test_templates_without_tools(name: str) -> None:
    """A template that knows no tools gets the generic syntax, and tools are described in words."""
    plan = planned(family(name), request(mode="required"))
    assert "Tool get_weather: Get the weather in a city.\n- city (string, required)\n- days (integer)" in text_of(plan)
    text = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>'
    thought = "</think>" if name == "deepseek_r1" else ""
    assert read(plan, [thought + text]) == ([("get_weather", {"city": "Rome"})], "", "", "tool_calls")


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    """Calls in a form that cannot be read back are refused, not guessed at."""
    with pytest.raises(ApiError, match="cannot be read back"):
        family(name).plan(request())


@pytest.mark.parametrize(
    ("name", "text", "thought", "said"),
    [
        ("qwen3", "<think>\nHm.\n</think>\n\nHello", "Hm.", "Hello"),
        ("qwen3", "Hello", "", "Hello"),
        ("deepseek_r1", "Hm.\n</think>\n\nHello", "Hm.", "Hello"),
        ("smollm3", "<think>\nHm.\n</think>\nHello", "Hm.", "Hello"),
        ("kimi_k2", "<think>Hm.</think>Hello", "Hm.", "Hello"),
        ("command_r7b", "<|START_RESPONSE|>Hello<|END_RESPONSE|>", "", "Hello"),
        (
            "gpt_oss",
            "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Hello",
            "Hm.",
            "Hello",
        ),
        ("functionary32", "all\nHello", "", "Hello"),
    ],
)
def test_thinking(name: str, text: str, thought: str, said: str) -> None:
    """Thinking is separated from the answer, also when it arrives letter by letter."""
    plan = family(name).plan(ChatRequest(model="m", messages=(Message("user", "Hi"),)))
    for chunks in ([text], list(text)):
        assert read(plan, chunks) == ([], said, thought, "stop")


@pytest.mark.parametrize(
    ("name", "thought"),
    [("qwen3", "<think>\nHm.\n</think>\n\n"), ("deepseek_r1", "Hm.\n</think>\n"), ("glm45", "<think>Hm.</think>\n")],
)
def test_grammar_after_a_thought(name: str, thought: str) -> None:
    """A model may think before a required call or JSON, and is held to them after it."""
    called = planned(family(name), request(mode="required", parallel=False))
    syntax = called.layout.syntax
    assert called.grammar is not None
    assert syntax is not None
    call = syntax.write([("get_weather", '{"city": "Rome"}')])
    assert accepts(called.grammar, thought + call)
    assert not accepts(called.grammar, thought + "Hello")
    form = JsonSchemaFormat("x", {"type": "object", "properties": {}, "additionalProperties": False})
    messages = (Message("user", "Hi"),)
    shown_text = family(name).plan(ChatRequest(model="m", messages=messages, response_format=form))
    assert shown_text.grammar is not None
    assert accepts(shown_text.grammar, thought + "{}")
    assert read(shown_text, list(thought + "{}")) == ([], "{}", "Hm.", "stop")


def test_reasoning_effort() -> None:
    """The effort goes to the template's own switch; to a model without one it is a hint that changes nothing."""

    def shown(name: str, effort: str) -> str:
        messages = (Message("user", "Hi"),)
        return text_of(family(name).plan(ChatRequest(model="m", messages=messages, reasoning_effort=effort)))

    assert "Reasoning: high" in shown("gpt_oss", "high")
    assert "<think>\n\n</think>" in shown("qwen3", "none")
    assert "<think>" not in shown("qwen3", "high")
    assert shown("deepseek_v31", "medium").endswith("<think>")
    assert shown("hermes", "none").endswith("assistant\n")
    for effort in ("minimal", "low", "high", "max"):
        assert shown("hermes", effort) == shown("hermes", "none")


def test_control_tokens_stand_by_id_in_a_grammar() -> None:
    """A mark that is one token in the vocabulary is named by its id, since no text can match it."""
    source = (FOLDER / "phi4_mini.jinja").read_text()
    ids = {"<|tool_call|>": 7, "<|/tool_call|>": 8}
    profile = ChatPrompter(template=source, control_tokens=tuple(ids), end_tokens=("<|end|>",), token_ids=ids)
    grammar = profile.plan(request(mode="required")).grammar
    assert grammar is not None
    assert "<[7]>" in grammar
    assert "<|tool_call|>" not in grammar


@pytest.mark.skipif("ANTIPHON_TEMPLATES" not in os.environ, reason="ANTIPHON_TEMPLATES names no folder of originals")
def test_originals() -> None:
    """Each original template is detected, or refused in our own terms; calls survive where it is detected."""
    for path in sorted(Path(os.environ["ANTIPHON_TEMPLATES"]).glob("**/*.jinja")):
        made = prompter(path.read_text())
        try:
            plan = planned(made, request())
        except ApiError as error:
            print(f"{path.name}: refused: {error.message}")  # noqa: T201 - the point of this run
            continue
        syntax = plan.layout.syntax
        assert syntax is not None
        calls = CALLS if syntax.between is not None else CALLS[:1]
        text = syntax.write([(function, json.dumps(arguments)) for function, arguments in calls])
        thinking = plan.layout.thinking
        if thinking is not None and thinking.begun:
            text = thinking.close + text
        assert read(plan, list(text))[0] == calls, path.name
        print(f"{path.name}: {syntax}")  # noqa: T201 - the point of this run
