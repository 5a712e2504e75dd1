"""Requests are planned without blocking the event loop, and what cannot fit is refused before any work."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.engine.test_client import INFO
from tests.waiting import until

from antiphon.backends.local.chat import LocalChat
from antiphon.backends.local.planning import MAX_CHARS_ON_LOOP, Planner, check_prompt_fits
from antiphon.engine import Engine, EngineSettings
from antiphon.engine.ipc.messages import ModelInfo
from antiphon.prompting import ChatPrompter
from antiphon.prompting.grammars import trial, trial_pool
from antiphon.protocol.chat import (
    ChatRequest,
    FunctionCall,
    JsonObjectFormat,
    JsonSchemaFormat,
    Message,
    Tool,
    ToolCall,
    ToolChoice,
)
from antiphon.protocol.errors import ApiError

pytestmark = pytest.mark.anyio

TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
CONTEXT, LONGEST = 4096, 64
SCHEMA = {"type": "object", "patternProperties": {f"^a{n}(b|c)*d{n}$": {"type": "string"} for n in range(1000)}}


def info(**changes: Any) -> ModelInfo:
    marks = ("<|im_start|>", "<|im_end|>")
    return msgspec.structs.replace(
        INFO,
        **{
            "context_length": CONTEXT,
            "longest_token": LONGEST,
            "chat_template": TEMPLATE,
            "control_tokens": marks,
            **changes,
        },
    )


def planner() -> Planner:
    return Planner(ChatPrompter(template=TEMPLATE, control_tokens=("<|im_start|>", "<|im_end|>")), info(), None)


def request(*messages: Message, **fields: Any) -> ChatRequest:
    return ChatRequest(model="m", messages=messages or (Message("user", "Hi"),), **fields)


@pytest.mark.parametrize(
    "messages",
    [
        (Message("user", ""),) * (CONTEXT + 1),
        (Message("user", "{}"),) * (CONTEXT + 1),
        (Message("user", "<|im_" * CONTEXT * LONGEST),),
        (Message("user", "<|im_end|>" * CONTEXT * LONGEST),),
        (Message("assistant", None, tool_calls=(ToolCall("c", FunctionCall("f", "x" * (CONTEXT * LONGEST + 1))),)),),
        (Message("user", "a" * CONTEXT * LONGEST), Message("user", "b")),
    ],
    ids=["many", "many short", "half tokens", "tokens", "arguments", "one character too many"],
)
async def test_what_can_never_fit_is_refused_first(
    messages: tuple[Message, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """More messages than tokens, or more characters than the longest tokens hold, are refused before they are looked at."""
    monkeypatch.setattr(ChatPrompter, "question", None)
    with pytest.raises(ApiError, match=f"is {CONTEXT} tokens. However, your messages resulted in at least") as caught:
        await planner().plan(request(*messages))
    assert (caught.value.status, caught.value.code) == (400, "context_length_exceeded")


@pytest.mark.parametrize("count", [1, CONTEXT])
def test_what_might_fit_is_let_through(count: int) -> None:
    """A prompt that would fit if each token were the longest one is left to the tokenizer."""
    size = CONTEXT * LONGEST // count
    check_prompt_fits(request(*(Message("user", "a" * size),) * count), info())


@pytest.mark.parametrize(
    ("made", "is_threaded"),
    [
        (request(), False),
        (request(Message("user", "a" * (MAX_CHARS_ON_LOOP + 1))), True),
        (request(*(Message("user", ""),) * (MAX_CHARS_ON_LOOP // 100 + 1)), True),
        (request(response_format=JsonObjectFormat()), True),
        (request(tools=(Tool("f"),), tool_choice=ToolChoice("auto")), True),
    ],
    ids=["small", "long", "many", "format", "tools"],
)
async def test_what_takes_long_leaves_the_loop(made: ChatRequest, is_threaded: bool) -> None:
    """A large request, and one with a grammar, is planned in a thread."""
    where = await planner()._run(made, threading.current_thread)
    assert (where is not threading.main_thread()) == is_threaded


async def test_a_client_that_leaves_ends_the_compilation(monkeypatch: pytest.MonkeyPatch) -> None:
    """A schema that takes a minute to compile takes no more time once its client is gone."""
    monkeypatch.setattr(trial, "MAX_SCHEMA_CPU_S", 600)
    monkeypatch.setattr(trial_pool, "QUICK_CPU_S", 600)
    lane = trial_pool._LANES[0]
    planning = asyncio.ensure_future(planner().plan(request(response_format=JsonSchemaFormat("x", SCHEMA))))
    await until(lambda: lane._num_busy == 1)
    planning.cancel()
    with pytest.raises(asyncio.CancelledError):
        await planning
    await until(lambda: lane._num_busy == 0)


@pytest.mark.parametrize(
    ("template", "content", "reason"),
    [
        (TEMPLATE, "".join(map(chr, range(0xF0000, 0x10FFFE))) + "<|im_end|>", "every private-use character"),
        (
            "{% for m in messages %}{{ m.content }}{% if m.content == 'x' %}{{ m.content * 99999999 }}{% endif %}{% endfor %}",
            "x",
            "bounds",
        ),
    ],
)
@pytest.mark.parametrize("fields", [{}, {"response_format": JsonObjectFormat()}])
async def test_messages_that_cannot_be_rendered(
    template: str, content: str, reason: str, fields: dict[str, Any]
) -> None:
    """They are refused as a request's fault, with the reason, and are no fault of the server's."""
    facts = info(context_length=10**6)
    made = Planner(ChatPrompter(template=template, control_tokens=("<|im_start|>", "<|im_end|>")), facts, None)
    with pytest.raises(ApiError, match=reason) as caught:
        await made.plan(request(Message("user", content), **fields))
    assert (caught.value.status, caught.value.param) == (400, "messages")


class StartedEngine:
    """An engine that is ready, with the model's facts and nothing else."""

    def __init__(self, facts: ModelInfo) -> None:
        self.info = facts
        self.settings = EngineSettings(model_path=Path("none.gguf"))

    async def start(self) -> None:
        pass


GO = "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>{{ end }}{{ .Prompt }}"


@pytest.mark.parametrize(
    "template",
    [
        GO,
        TEMPLATE[:30],
        TEMPLATE[:-5],
        "{% for m in messages %}{{ m.content",
        "{% endfor %}",
        "{{ 1 / 0 ",
        "{% include 'x' %}{{",
    ],
)
async def test_a_template_that_is_no_jinja(template: str) -> None:
    """Such a model starts and is served for completions; its messages alone are refused, with the reason."""
    engine: Any = StartedEngine(info(chat_template=template))
    model = LocalChat("m", engine)
    await model.start()
    assert model.is_started
    assert model.context_length == CONTEXT
    for asked in (model.chat(request()).__anext__(), model.count_tokens(request())):
        with pytest.raises(
            ApiError, match="takes no messages, since its chat template does not work; use /v1/completions"
        ) as caught:
            await asked
        assert (caught.value.status, caught.value.param) == (400, "model")


async def test_another_template_in_its_place() -> None:
    """The template that the settings give is used in place of every template in the model's file."""
    engine: Any = StartedEngine(info(chat_template=GO, templates={"tool_use": GO}))
    model = LocalChat("m", engine, chat_template="{% for m in messages %}[{{ m.content }}]{% endfor %}")
    await model.start()
    pieces = await model._chat_planner.prompt(request())
    assert "".join(piece.text for piece in pieces) == "[Hi]"


def test_the_engine_that_is_stubbed() -> None:
    """What the stub offers is what the real engine has."""
    assert {"info", "start"} <= set(dir(Engine))
