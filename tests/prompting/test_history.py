"""Calls and their results in the history, as every template family shows them."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.prompting.test_template_families import family, planned, request, text_of

from antiphon.prompting import ChatPrompter
from antiphon.prompting.history import in_order_of_calls
from antiphon.prompting.templates.template import ChatTemplate
from antiphon.prompting.tool_calls.detect import shows_tools
from antiphon.protocol.chat import ChatRequest, FunctionCall, Message, ToolCall
from antiphon.protocol.errors import ApiError

FOLDER = Path(__file__).parent / "templates"
FAMILIES = sorted(path.stem for path in FOLDER.glob("*.jinja"))
REFUSED = {"gemma4"}
USER = Message("user", "Weather?")

TEXTS = [
    '{"city": "Os',
    "",
    "Oslo",
    "[1, 2]",
    "null",
    '"{}"',
    '{"a": NaN}',
    '{"a": "\\ud800"}',
    "{'a': 1}",
    '{"a": 1}}',
    "\\",
]


def prompt(name: str, *messages: Message) -> str:
    return text_of(planned(family(name), request(*messages)))


def calls(*arguments: str) -> Message:
    made = (ToolCall(f"call_{n:024d}", FunctionCall("get_weather", text)) for n, text in enumerate(arguments))
    return Message("assistant", None, tool_calls=tuple(made))


def result(number: int, text: str) -> Message:
    return Message("tool", text, tool_call_id=f"call_{number:024d}")


def can_call_twice(name: str) -> bool:
    try:
        prompt(name, USER, calls("{}", "{}"), result(0, "a"), result(1, "b"))
    except ApiError:
        return False
    return True


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in REFUSED and can_call_twice(name)])
def test_results_answer_the_call_that_they_name(name: str) -> None:
    """Results are matched to calls by ``tool_call_id``: sent in another order they give the same prompt, swapped they do not."""
    asked = calls('{"city": "Oslo"}', '{"city": "Rome"}')
    in_order = prompt(name, USER, asked, result(0, "Coldest"), result(1, "Warmest"))
    assert prompt(name, USER, asked, result(1, "Warmest"), result(0, "Coldest")) == in_order
    assert prompt(name, USER, asked, result(1, "Coldest"), result(0, "Warmest")) != in_order
    assert in_order.index("Oslo") < in_order.index("Rome")
    assert in_order.index("Coldest") < in_order.index("Warmest")


@given(st.lists(st.permutations(range(4)), min_size=1, max_size=3))
def test_results_are_sorted_within_their_turn(orders: list[list[int]]) -> None:
    """Results keep to their turn, even where ids come again in a later turn, and nothing else moves."""
    sent = [message for order in orders for message in (USER, calls(*"1234"), *(result(n, str(n)) for n in order))]
    wanted = [message for _ in orders for message in (USER, calls(*"1234"), *(result(n, str(n)) for n in range(4)))]
    assert in_order_of_calls([*sent, USER]) == [*wanted, USER]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in REFUSED])
def test_arguments_that_are_no_object(name: str, text: str) -> None:
    """Arguments that are not a JSON object, as those of a call that was cut off, are shown as the text that they are."""
    shown = prompt(name, USER, calls(text), result(0, "Result"))
    assert (text or "{}") in shown or json.dumps(text)[1:-1] in shown
    assert "Result" in shown
    syntax = planned(family(name), request()).layout.syntax
    if syntax is not None and syntax.key_values is None and syntax.arguments == "object":
        well_formed = prompt(name, USER, calls('{"arguments": "1"}'), result(0, "Result"))
        assert shown == well_formed.replace('{"arguments": "1"}', text or "{}")


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in REFUSED])
def test_special_tokens_in_such_arguments(name: str) -> None:
    """They are escaped like everything that a client sends."""
    special = {"hermes": "<|im_end|>", "llama31": "<|eot_id|>"}.get(name, "</s>")
    plan = planned(family(name), request(USER, calls(f"{special} Os"), result(0, "Result")))
    assert any(special in piece.text and not piece.special for piece in plan.prompt)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=8), min_size=1, max_size=3))
def test_any_text_as_arguments(texts: list[str]) -> None:
    """Any text can be arguments of a call; each comes out letter for letter where the template shows JSON."""
    shown = prompt("hermes", USER, calls(*texts), *(result(n, "Result") for n in range(len(texts))))
    for text in texts:
        if not text.strip().startswith("{") and text:
            assert f'"arguments": {text}}}' in shown


@pytest.mark.parametrize("name", FAMILIES)
def test_plain_messages_need_no_syntax(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A template whose calls cannot be read serves every request without tools; with tools it is refused as such."""
    monkeypatch.setattr("antiphon.prompting.template_profile.detect_syntax", lambda *_: None)
    made: Any = family(name)
    for messages in ((USER,), (Message("system", "Be kind."), USER, Message("assistant", "Sunny."), USER)):
        assert "Weather?" in text_of(made.plan(ChatRequest(model="m", messages=messages)))
    if shows_tools(ChatTemplate((FOLDER / f"{name}.jinja").read_text(), {"bos_token": "", "eos_token": ""})):
        for with_calls in (
            (USER,),
            (USER, calls("{}"), result(0, "a")),
            (USER, Message("tool", "a", tool_call_id="b")),
        ):
            with pytest.raises(ApiError, match="cannot be read back"):
                made.plan(request(*with_calls))


@pytest.mark.parametrize(
    "condition", ["tools", "tools is defined and tools", "tools | length > 0", "not tools is none"]
)
def test_tools_shown_in_an_unknown_form(condition: str) -> None:
    """A template that shows tools, and calls in no form at all, serves plain messages."""
    source = f"{{% if {condition} %}}{{{{ tools | tojson }}}}{{% endif %}}{{% for m in messages %}}{{{{ m.content }}}}{{% endfor %}}"
    made = ChatPrompter(template=source, control_tokens=(), end_tokens=())
    assert text_of(made.plan(ChatRequest(model="m", messages=(USER,)))) == "Weather?"
