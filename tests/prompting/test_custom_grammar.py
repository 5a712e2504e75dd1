"""Grammars of custom tools: refused where no text ends them, and followed to an end where one does."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from llguidance import LLMatcher, LLTokenizer

from antiphon.prompting import ChatPrompter, Plan
from antiphon.prompting.grammars.custom import MAX_CHARS, problem_of_grammar
from antiphon.prompting.grammars.lark_rules import LarkRules, lark_tokens
from antiphon.prompting.schemas.compile import check_request
from antiphon.protocol.chat import ChatRequest, Message, Tool, ToolChoice
from antiphon.protocol.errors import ApiError
from antiphon.protocol.events import ToolCallDelta

TEMPLATES = Path(__file__).parent / "templates"
TOKENIZER = LLTokenizer("byte")
EMPTY = "matches no text at all"


@pytest.mark.parametrize(
    ("definition", "reason"),
    [
        ("start: start", "the rule 'start' never comes to an end"),
        ('start: "a" start', "the rule 'start' never comes to an end"),
        ('start: "x" a\n?a: b "y"\n!b: a | a', "the rule 'a' never comes to an end"),
        ('start: "x" | a\na: "y" a', "the rule 'a' never comes to an end"),
        ('start: "x" a?\na: ("y" a)+', "the rule 'a' never comes to an end"),
        ('start: "x" [a]\na: "y" a{2,}', "the rule 'a' never comes to an end"),
        ('start: a\na: "x" a ~ 1..3', "the rule 'a' never comes to an end"),
        ("start: A\nA: /a/ & /b/", f"the terminal A {EMPTY}"),
        ('start: "x" (A | /[^\\s\\S]/)\nA: /a/', f"the terminal /[^\\s\\S]/ {EMPTY}"),
        ('start: A\nA: "a"{1000000}', "the terminal A asks for more than"),
        ("start: A\nA: /(a{997})+/ & /(a{1009})+/ & /(a{1013})+/", "the terminal A cannot be compiled: fuel exhausted"),
        ("start: a\na[suffix=/[^\\s\\S]/]: /x/", EMPTY),
        ('start: "x" ~/a/', "'~' outside of a terminal cannot be enforced here"),
        ("start: <|im_end|>", "'<|im_end|>' cannot be enforced here"),
        ("start: a\na[max_tokens=5]: /.*/", "the attribute 'max_tokens' cannot be enforced here"),
        ('%llguidance {"allow_invalid_utf8": true}\nstart: "a"', "cannot be enforced here"),
        ('start: %json {"type": "integer"}', "'%json' is not permitted"),
        ("start: missing", 'at 1(8): unknown name: "missing"'),
        ("start: /(?=a)/", "look-around"),
        ("start: " + "(" * 5000 + '"a"' + ")" * 5000, "too deeply nested"),
        ("start: r0\n" + "".join(f"r{n}: r{n + 1}\n" for n in range(600)), "rules, which exceeds the limit of 500"),
        ("start: " + "|".join(['"a"'] * MAX_CHARS), "characters, which exceeds the limit of 50000"),
    ],
)
def test_refused(definition: str, reason: str) -> None:
    """A grammar that could not be followed to an end is refused with a 400 that names the rule and the reason."""
    tool = Tool("f", kind="custom", grammar=("lark", definition))
    request = ChatRequest(model="m", messages=(Message("user", "Hi"),), tools=(tool,), tool_choice=ToolChoice("auto"))
    with pytest.raises(ApiError) as caught:
        check_request(request)
    assert caught.value.status == 400
    assert caught.value.param == "tools[0].custom.format.grammar.definition"
    assert reason in caught.value.message


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [("(", "unclosed group"), ("[^\\s\\S]", f"it {EMPTY}"), ("(a{1000}){1000}", "it asks for more than")],
)
def test_refused_patterns(pattern: str, reason: str) -> None:
    """So is a regular expression."""
    assert reason in (problem_of_grammar("regex", pattern) or "")
    assert problem_of_grammar("regex", "") is None


@pytest.mark.parametrize(
    "definition",
    [
        'start: ""',
        'start: e\n?e: e "+" e -> add\n  | "(" e ")"\n  | /[0-9]+/  // a number',
        'start: s\n# key_values of brackets\ns: ("(" s ")")*',
        "start: list\nlist[lazy]: /[a-z]+;/",
        '%import common (INT, WS)\n%ignore WS\nstart: INT ("," INT)~0..5',
        'start: "é" L+ "日本語" "a".."z"\nL: /\\p{L}/ & ~/[a-z]/',
        'start: %regex {"substring_words": "to be or not"}\n%llguidance {}',
        'start: a | "x"\na: "y" start | b{0,3} "z"\nb: "//"i /[^\\/"]/',
        'start: "a"\nunused: unused',
        'start: "%json" "a" ~ +2 "b"{+1}\n%llguidance { }',
        "start:" + "".join(f'\n  | "{number}:"' for number in range(600)),
    ],
)
def test_taken(definition: str) -> None:
    """Grammars as people write them are taken: recursion with a way out, comments, imports, ranges, any script."""
    assert problem_of_grammar("lark", definition) is None


def test_terminals_are_those_in_use() -> None:
    """Terminals are found where rules use them, under whatever repetition, each with the definitions that it needs."""
    rules = LarkRules(lark_tokens('start: A* ("b" | c)\nc: /d/?\nA: B /x/\nB: "x"\nE: "y"\n'))
    assert set(rules.terminals) == {"A", "/d/"}
    assert rules.alone("A") == 'A : B /x/\nB : "x"\nstart: A\n'


INPUTS = (
    ("regex", ".*", "a } b"),
    ("regex", "[^x]+", 'SELECT "y" }'),
    ("regex", r"a\/b/c", "a/b/c"),
    ("regex", "(|ab)", "ab"),
    ("lark", 'start: "x" A\nA: /.+/', "x } y"),
    ("lark", "start: A+\nA: /[a-z}]+/", "abc}"),
    (None, "", "anything\n}"),
)


@pytest.mark.parametrize("family", ["hermes", "mistral_v3", "phi4_mini", "llama31", "gemma3"])
@pytest.mark.parametrize(("syntax", "definition", "text"), INPUTS)
def test_input_may_end_the_answer(family: str, syntax: Any, definition: str, text: str) -> None:
    """An input that could go on and swallow what closes it ends with the answer, and is read back whole."""
    tool = Tool("f", kind="custom", grammar=(syntax, definition) if syntax else None)
    made = plan(family, tool)
    assert made.layout.syntax is not None
    whole = made.layout.syntax.write([("f", text)])
    cut = whole[: whole.index(text) + len(text)]
    assert follows(made, cut)
    assert inputs(made, cut) == [text]
    assert inputs(made, whole) == [text]


MARKS = {"<tool_call>": 0xF8, "</tool_call>": 0xF9}
"""Control tokens, as the bytes that no text has in UTF-8."""


CLOSED = (
    *(given for given in INPUTS if given[0] != "lark"),
    (None, "", "if (a) {\n}\n"),
    ("lark", 'start: "{" /a+/ "}"', "{aa}"),
)


@pytest.mark.parametrize("family", ["hermes", "qwen3"])
@pytest.mark.parametrize(("syntax", "definition", "text"), CLOSED)
def test_closed_by_a_control_token(family: str, syntax: Any, definition: str, text: str) -> None:
    """Where a control token closes the call, the letters before it may occur in the input as well."""
    tool = Tool("f", kind="custom", grammar=(syntax, definition) if syntax else None)
    prompter = ChatPrompter(
        template=(TEMPLATES / f"{family}.jinja").read_text(), control_tokens=tuple(MARKS), token_ids=MARKS
    )
    made = prompter.plan(
        ChatRequest(model="m", messages=(Message("user", "Hi"),), tools=(tool,), tool_choice=ToolChoice("required"))
    )
    assert made.grammar is not None
    assert made.layout.syntax is not None
    whole = made.layout.syntax.write([("f", text)])
    assert inputs(made, whole) == [text]
    data = whole.encode()
    for mark, byte in MARKS.items():
        data = data.replace(mark.encode(), bytes([byte]))
    matcher = LLMatcher(TOKENIZER, made.grammar, log_level=0)
    assert not matcher.get_error()
    assert matcher.try_consume_tokens(list(data)) == len(data)


@pytest.mark.parametrize("family", ["command_r7b", "llama4_pythonic", "minicpm3"])
@pytest.mark.parametrize(
    ("syntax", "definition", "text"),
    [
        (None, "", "f(x) {\n}, y)\n"),
        ("regex", r"\{[^{}]*\}\)\n", "{ab})\n"),
        ("lark", 'start: "{(" /[^{}()]+/ ")}"', "{(ab)}"),
    ],
)
def test_closed_by_a_bracket(family: str, syntax: Any, definition: str, text: str) -> None:
    """Where calls are separated by no more than a bracket, which an input may hold, one with such an input is the last."""
    add = Tool("add", parameters={"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})
    tool = Tool("f", kind="custom", grammar=(syntax, definition) if syntax else None)
    made = plan(family, tool)
    assert made.layout.syntax is not None
    # As text it is where key-value arguments would be.
    plain = msgspec.structs.replace(made.layout.syntax, key_values=None)
    whole = plain.write([("f", text)])
    assert follows(made, whole)
    assert inputs(made, whole) == [text]
    first = made.layout.syntax.write([("add", '{"a": 1}')]).removesuffix(plain.tail)
    both = plan(family, add, tool)
    assert follows(both, f"{first}{plain.between}{whole.removeprefix(plain.lead)}")


def test_an_input_before_its_tool() -> None:
    """Where a model writes arguments before names, text could not be distinguished from them, so custom tools are refused."""
    with pytest.raises(ApiError, match="cannot call custom tools") as caught:
        plan("granite3", Tool("f", kind="custom"))
    assert caught.value.param == "tools"


def test_a_part_that_takes_all_that_follows() -> None:
    """Where one terminal swallows every text of the next, each token is looked for by itself: looking ahead has no end there."""
    made = plan("hermes", Tool("f", kind="custom", grammar=("lark", "start: /z+/ /z+/")))
    assert made.grammar is not None
    matcher = LLMatcher(TOKENIZER, made.grammar, log_level=0)
    assert made.layout.syntax is not None
    matcher.try_consume_tokens(list(made.layout.syntax.write([("f", "")]).partition("}")[0].encode()))
    for _ in range(3):
        allowed = [byte for byte, weight in enumerate(matcher.compute_logit_bias()) if weight]
        assert allowed == [ord("z")]
        matcher.consume_token(ord("z"))


def plan(family: str, *tools: Tool) -> Plan:
    prompter = ChatPrompter(template=(TEMPLATES / f"{family}.jinja").read_text())
    choice = ToolChoice("required")
    return prompter.plan(ChatRequest(model="m", messages=(Message("user", "Hi"),), tools=tools, tool_choice=choice))


def follows(made: Plan, text: str) -> bool:
    assert made.grammar is not None
    matcher = LLMatcher(TOKENIZER, made.grammar, log_level=0)
    data = list(text.encode())
    return matcher.try_consume_tokens(data) == len(data) and matcher.is_accepting()


def inputs(made: Plan, text: str) -> list[str]:
    """Return the inputs of the calls in a text that comes in letters."""
    parser = made.parser(0)
    events = [event for letter in text for event in parser.feed(letter)] + parser.finish("stop")
    deltas = [event for event in events if isinstance(event, ToolCallDelta)]
    return ["".join(event.arguments for event in deltas)]
