"""The next turn of a conversation is computed in advance as it will be rendered."""

import asyncio
from typing import Any, cast

import msgspec
import pytest
from tests.backends.test_planning import info
from tests.prompting.test_template_families import GENERIC, NATIVE, WEATHER, family
from tests.waiting import until

from antiphon.backends.local.next_turn import AnswerText, NextTurns
from antiphon.backends.local.planning import Planner
from antiphon.engine import Engine
from antiphon.engine.errors import EngineStopped
from antiphon.engine.ipc.messages import Prompt, Text
from antiphon.protocol.chat import ChatRequest, Message, ToolChoice
from antiphon.protocol.events import (
    ChoiceFinished,
    Event,
    ReasoningDelta,
    RefusalDelta,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
)

pytestmark = pytest.mark.anyio

ANSWERS: dict[str, list[Event]] = {
    "text": [TextDelta(0, "It is "), TextDelta(0, "12 degrees. <|im_end|>"), ChoiceFinished(0, "stop")],
    "reasoning": [ReasoningDelta(0, "A city"), ReasoningDelta(0, " in Norway."), TextDelta(0, "Oslo.")],
    "refusal": [RefusalDelta(0, "No.")],
    "call": [
        TextDelta(0, "Let me look."),
        ToolCallStarted(0, 0, "call_000000001", "get_weather"),
        ToolCallDelta(0, 0, '{"city": '),
        ToolCallDelta(0, 0, '"Oslo"}'),
    ],
}


class _Engine:
    """Notes what is to be computed. With ``stays`` it never ends, with ``fails`` it is stopped."""

    def __init__(self, *, stays: bool = False, fails: bool = False) -> None:
        self.prompts: list[str] = []
        self.num_cancelled = 0
        self._stays = stays
        self._fails = fails

    async def prefill(self, prompt: Prompt) -> int:
        self.prompts.append("".join(piece.text for piece in prompt if isinstance(piece, Text)))
        if self._fails:
            raise EngineStopped("it was stopped")
        try:
            await asyncio.Event().wait() if self._stays else None
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise
        return 0


def planner_of(name: str) -> Planner:
    return Planner(family(name), info(longest_token=None, context_length=32768), None)


def request(*, with_tools: bool = False) -> ChatRequest:
    tools: dict[str, Any] = {"tools": (WEATHER,), "tool_choice": ToolChoice("auto")} if with_tools else {}
    return ChatRequest(model="m", messages=(Message("user", "How warm is it in Oslo?"),), **tools)


def message_of(answer: str) -> Message:
    said = AnswerText()
    for event in ANSWERS[answer]:
        said.feed(event)
    return said.message()


async def prepared(engine: _Engine, name: str, answer: str, *, with_tools: bool) -> list[str]:
    planner = planner_of(name)
    turns = NextTurns(cast("Engine", engine), planner)
    turns.prepare(request(with_tools=with_tools), message_of(answer))
    await until(lambda: turns.is_idle)
    return engine.prompts


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("name", [*NATIVE, *GENERIC])
async def test_what_is_computed_begins_the_next_turn(name: str, answer: str) -> None:
    """For every template family and kind of answer, the next turn's prompt begins with it, and it has the answer."""
    is_call = answer == "call"
    if is_call and name in GENERIC:
        assert await prepared(_Engine(), name, answer, with_tools=True) == [], "its tools depend on the next message"
        return
    (prompt,) = await prepared(_Engine(), name, answer, with_tools=is_call)
    said = message_of(answer)
    following = [Message("tool", "12 degrees", tool_call_id="call_000000001")] if is_call else [Message("user", "And?")]
    whole = msgspec.structs.replace(
        request(with_tools=is_call), messages=(*request().messages, said, *following), model="m"
    )
    real = await planner_of(name).prompt(whole)
    assert "".join(piece.text for piece in real).startswith(prompt)
    assert (said.content or "").strip() in prompt
    assert "\ue000" not in prompt


async def test_a_request_ends_what_is_computed_in_advance() -> None:
    """While a request is open, nothing is computed in advance, and what was is cancelled; afterwards it may begin again."""
    engine = _Engine(stays=True)
    turns = NextTurns(cast("Engine", engine), planner_of("qwen3"))
    turns.prepare(request(), message_of("text"))
    await until(lambda: bool(engine.prompts))
    with turns.held_off():
        await until(lambda: engine.num_cancelled == 1)
        turns.prepare(request(), message_of("text"))
        assert turns.is_idle
    turns.prepare(request(), message_of("text"))
    await until(lambda: len(engine.prompts) == 2)
    turns.stop()


async def test_an_engine_that_stops_is_nobodys_error() -> None:
    """Nobody waits for what is computed in advance."""
    assert len(await prepared(_Engine(fails=True), "qwen3", "text", with_tools=False)) == 1
