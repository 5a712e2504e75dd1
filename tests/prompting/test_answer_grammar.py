"""Tool choice, custom tools, older functions and schemas: what is generated and how it is read."""

import json
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer

from antiphon.prompting import ChatPrompter, Plan
from antiphon.protocol.chat import ChatRequest, JsonObjectFormat, JsonSchemaFormat, Message, Tool, ToolChoice
from antiphon.protocol.errors import ApiError
from antiphon.protocol.events import ChoiceFinished, TextDelta, ToolCallDelta, ToolCallStarted

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HERMES = (
    "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls or [] %}"
    '<tool_call>\n{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n</tool_call>'
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONTROL = ("<|im_start|>", "<|im_end|>")
TOKENIZER = LLTokenizer("byte")
ADD = Tool("add", parameters={"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})
SUB = Tool("sub")
USER = (Message("user", "Add 5."),)


def call(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


def plan(template: str = HERMES, **kwargs: Any) -> Plan:
    prompter = ChatPrompter(template=template, control_tokens=CONTROL, end_tokens=CONTROL[1:])
    return prompter.plan(ChatRequest(**{"model": "m", "messages": USER, **kwargs}))


def accepts(made: Plan, text: str) -> bool:
    assert made.grammar is not None
    matcher = LLMatcher(TOKENIZER, made.grammar, log_level=0)
    data = list(text.encode())
    return matcher.try_consume_tokens(data) == len(data) and matcher.is_accepting()


def test_named_choice() -> None:
    """A named function is the only one that can be called, and finishes with ``stop`` as OpenAI's do."""
    made = plan(tools=(ADD, SUB), tool_choice=ToolChoice("required", ("add",)))
    assert accepts(made, call("add", '{"a": 5}'))
    assert not accepts(made, call("sub", "{}"))
    parser = made.parser(0)
    parser.feed(call("add", '{"a": 5}'))
    assert parser.finish("stop") == [ChoiceFinished(0, "stop")]


def test_allowed_tools() -> None:
    """With ``auto`` among allowed tools, text is possible and the others are not."""
    made = plan(tools=(ADD, SUB), tool_choice=ToolChoice("auto", ("sub",)))
    assert accepts(made, "Five.")
    assert accepts(made, call("sub", "{}"))
    assert not accepts(made, call("add", '{"a": 5}'))


def test_none_generates_no_call() -> None:
    """With ``none`` nothing constrains the text and nothing is read as a call."""
    made = plan(tools=(ADD,), tool_choice=ToolChoice("none"))
    assert made.grammar is None
    assert made.parser(0).feed("<tool_call>") == [TextDelta(0, "<tool_call>")]


def test_parallel_calls() -> None:
    """Several calls a turn are possible unless ``parallel_tool_calls`` is off."""
    both = call("add", '{"a": 5}') + call("sub", "{}")
    wanted = {"tools": (ADD, SUB), "tool_choice": ToolChoice("required")}
    assert accepts(plan(**wanted), both)
    assert not accepts(plan(**wanted, parallel_tool_calls=False), both)
    assert accepts(plan(**wanted, parallel_tool_calls=False), call("sub", "{}"))


def test_older_functions() -> None:
    """A request with ``functions`` makes one call and finishes with ``function_call``."""
    made = plan(tools=(SUB,), tool_choice=ToolChoice("auto"), legacy_functions=True)
    parser = made.parser(0)
    parser.feed(call("sub", "{}"))
    assert parser.finish("stop") == [ChoiceFinished(0, "function_call")]


@pytest.mark.parametrize(
    ("grammar", "good", "bad"),
    [
        (None, 'SELECT "x"', None),
        (("regex", "[a-z]+/[0-9]{2}"), "ab/12", "AB/12"),
        (("lark", 'start: "go" / [0-9]+/ "!"'), "go 12!", "go !"),
    ],
)
def test_custom_tool(grammar: tuple[Any, str] | None, good: str, bad: str | None) -> None:
    """A custom tool's input is plain text in place of arguments, held to its grammar, and read back as it is."""
    tool = Tool("run", "Run it.", kind="custom", grammar=grammar)
    made = plan(tools=(tool,), tool_choice=ToolChoice("required"), parallel_tool_calls=False)
    assert accepts(made, call("run", good))
    assert bad is None or not accepts(made, call("run", bad))
    for pieces in ([call("run", good)], list(call("run", good))):
        parser = made.parser(0)
        events = [event for piece in pieces for event in parser.feed(piece)]
        started = [event for event in events if isinstance(event, ToolCallStarted)]
        assert [(event.name, event.kind) for event in started] == [("run", "custom")]
        assert "".join(event.arguments for event in events if isinstance(event, ToolCallDelta)) == good


def test_call_ids_are_fresh() -> None:
    """Every call has an id of its own in OpenAI's form."""
    made = plan(tools=(SUB,), tool_choice=ToolChoice("required"))
    events = [*made.parser(0).feed(call("sub", "{}")), *made.parser(1).feed(call("sub", "{}"))]
    ids = [event.id for event in events if isinstance(event, ToolCallStarted)]
    assert len(set(ids)) == 2
    assert all(id_.startswith("call_") and len(id_) == 29 for id_ in ids)


def test_text_before_a_call() -> None:
    """What is said before a call is content, less the blank space between."""
    parser = plan(tools=(SUB,), tool_choice=ToolChoice("auto")).parser(0)
    events = [event for piece in ("Let me ", "see.\n", "\n<tool", "_call>\n") for event in parser.feed(piece)]
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "Let me see."


def test_a_call_cut_off() -> None:
    """A call that is cut off says so; what was generated of it is kept."""
    parser = plan(tools=(ADD,), tool_choice=ToolChoice("required")).parser(0)
    events = [*parser.feed(call("add", '{"a": 5}')[:45]), *parser.finish("length")]
    assert [event.arguments for event in events if isinstance(event, ToolCallDelta)] == ['{"a"']
    assert events[-1] == ChoiceFinished(0, "length")


@pytest.mark.parametrize("cut", [3, 11, 20])
def test_a_call_cut_off_before_its_name_is_no_text(cut: int) -> None:
    """Where a call is required, the beginning of its markup is never shown as an answer."""
    parser = plan(tools=(ADD,), tool_choice=ToolChoice("required")).parser(0)
    assert [*parser.feed(call("add", "{}")[:cut]), *parser.finish("length")] == [ChoiceFinished(0, "length")]


@pytest.mark.parametrize("stop", ["\n", '"', "name", "<tool_call>", "add", 'dd", "'])
@pytest.mark.parametrize("template", [HERMES, CHATML])
def test_a_stop_string_that_every_call_would_run_into_is_refused(template: str, stop: str) -> None:
    """It would end calls within their markup; with text alone it is an ordinary stop string."""
    with pytest.raises(ApiError, match="at the beginning of a call") as caught:
        plan(template, tools=(ADD, SUB), tool_choice=ToolChoice("auto"), stop=("END", stop))
    assert (caught.value.param, caught.value.code) == ("stop", "unsupported_value")
    assert plan(template, tools=(ADD, SUB), stop=(stop,), tool_choice=ToolChoice("none")).grammar is None
    plan(template, tools=(ADD, SUB), tool_choice=ToolChoice("auto"), stop=("}", "</tool_call>", "Thought:", "."))


def test_marks_that_are_no_call() -> None:
    """Text that begins like a call and is none comes out as text, whole."""
    parser = plan(tools=(ADD,), tool_choice=ToolChoice("auto")).parser(0)
    events = [*parser.feed("a <tool_call>nothing"), *parser.finish("stop")]
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "a <tool_call>nothing"


def test_the_schema_is_described_and_enforced() -> None:
    """The prompt describes the schema, and the grammar enforces it."""
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    made = plan(CHATML, response_format=JsonSchemaFormat("sum", schema, "A sum."))
    shown_text = made.prompt[0].text
    assert "sum" in shown_text
    assert "A sum." in shown_text
    assert accepts(made, '{"a": 5}')
    assert not accepts(made, '{"a": "5"}')
    assert accepts(plan(CHATML, response_format=JsonObjectFormat()), json.dumps({"x": [1, None]}))


def test_schema_with_tools() -> None:
    """With tools and a schema, the answer is a call or JSON."""
    form = JsonSchemaFormat("x", {"type": "object", "properties": {}, "additionalProperties": False})
    made = plan(tools=(SUB,), tool_choice=ToolChoice("auto"), response_format=form)
    assert accepts(made, "{}")
    assert accepts(made, call("sub", "{}"))
    assert not accepts(made, "Five.")


def selected(vectors: list[list[float]] | None, **kwargs: Any) -> Plan:
    prompter = ChatPrompter(template=CHATML, control_tokens=CONTROL, end_tokens=CONTROL[1:])
    asked = ChatRequest(**{"model": "m", "messages": USER, "tool_choice": ToolChoice("auto"), **kwargs})
    question = prompter.question(asked)
    assert question is not None
    return prompter.plan(asked, prompter.selector.choose(question, vectors))


def test_tools_are_selected_before_planning() -> None:
    """The plan shows and allows the selected tool alone, or none; without vectors the words in common decide."""
    far, near = [0.0, 1.0], [1.0, 0.0]
    assert selected([near, far, far, far, far], tools=(ADD, SUB)).layout.calls_only is False
    called = selected([near, near, near, far, far], tools=(ADD, SUB))
    assert [tool.name for tool in called.layout.tools] == ["add"]
    assert "sub" not in called.prompt[0].text
    assert plan(CHATML, tools=(ADD, SUB), tool_choice=ToolChoice("auto")) == selected(None, tools=(ADD, SUB))


@pytest.mark.parametrize(
    ("template", "choice"),
    [(HERMES, ToolChoice("auto")), (CHATML, ToolChoice("none")), (CHATML, ToolChoice("required", ("add",)))],
)
def test_nothing_to_select(template: str, choice: ToolChoice) -> None:
    """There is no question for a model trained on tools, without tools, and where one tool is required."""
    prompter = ChatPrompter(template=template, control_tokens=CONTROL, end_tokens=CONTROL[1:])
    assert prompter.question(ChatRequest(model="m", messages=USER, tools=(ADD, SUB), tool_choice=choice)) is None


@pytest.mark.parametrize("mode", ["auto", "none", "required"])
@pytest.mark.parametrize("template", [HERMES, CHATML])
def test_the_prompt_alone(template: str, mode: str) -> None:
    """The prompt that is counted is the plan's, though no grammar is made for it."""
    prompter = ChatPrompter(template=template, control_tokens=CONTROL, end_tokens=CONTROL[1:])
    asked = ChatRequest(model="m", messages=USER, tools=(ADD, SUB), tool_choice=ToolChoice(mode))
    assert prompter.prompt(asked) == prompter.plan(asked).prompt


def test_a_selected_call_finishes_as_a_free_one() -> None:
    """A call that was selected under ``auto`` finishes with ``tool_calls``, also where only one tool is allowed."""
    made = selected([[1.0]] * 3, tools=(ADD, SUB), tool_choice=ToolChoice("auto", ("add",)))
    parser = made.parser(0)
    parser.feed(call("add", '{"a": 5}'))
    assert parser.finish("stop") == [ChoiceFinished(0, "tool_calls")]


def test_after_a_result_comes_text() -> None:
    """A model without tool training answers a tool's result in text."""
    from antiphon.protocol.chat import FunctionCall, ToolCall  # noqa: PLC0415 - for this test alone

    called = Message("assistant", tool_calls=(ToolCall("c", FunctionCall("add", '{"a": 5}')),))
    messages = (*USER, called, Message("tool", "6", tool_call_id="c"))
    made = plan(CHATML, messages=messages, tools=(ADD,), tool_choice=ToolChoice("auto"))
    assert made.grammar is None
    assert "<tool_response>\n6\n</tool_response>" in made.prompt[0].text


def test_closing_texts_of_repeating_answers() -> None:
    """JSON of a model without tool training has closing texts; trained models and inputs in plain text have none."""
    form = JsonSchemaFormat("x", {"type": "object", "properties": {"a": {"type": "string"}}})
    assert plan(CHATML, response_format=form).closing_texts
    assert plan(CHATML, response_format=form).max_word
    assert not plan(HERMES, response_format=form).closing_texts
    assert plan(CHATML, tools=(ADD,), tool_choice=ToolChoice("required")).closing_texts
    run = Tool("run", kind="custom")
    assert not plan(CHATML, tools=(run,), tool_choice=ToolChoice("required")).closing_texts
    assert not plan(CHATML).closing_texts
