"""Prepares the next turn of a conversation: after an answer, its tokens are computed as a prompt while nothing else runs.

The cells that an answer left behind were computed in decode steps, and a request on an idle engine does not use them, so
that a repeated request gives a bit-equal answer (docs/engine/guarantees.md). Cells computed as a prompt may be used. The
prompt is rendered as the next turn's will be, so a template that drops thinking or writes calls in its own way is no
obstacle.
"""

import asyncio
import contextlib
from collections.abc import Generator, Sequence

import msgspec

from antiphon.backends.local.planning import Planner
from antiphon.backends.local.tokens import engine_prompt
from antiphon.engine import Engine
from antiphon.engine.errors import EngineError
from antiphon.prompting import Piece
from antiphon.protocol.chat import ChatRequest, FunctionCall, Message, ToolCall
from antiphon.protocol.errors import ApiError
from antiphon.protocol.events import (
    Event,
    ReasoningDelta,
    RefusalDelta,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
)

_UNKNOWN = "\ue000"
"""The place of what the next message will say: a character of Unicode's private use area."""


class AnswerText:
    """Collects the events of one choice into the message that the next turn's history will have."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._refusal: list[str] = []
        self._calls: dict[int, ToolCallStarted] = {}
        self._arguments: dict[int, list[str]] = {}

    def feed(self, event: Event) -> None:
        """Take one event in; those that say nothing are ignored."""
        match event:
            case TextDelta():
                self._text.append(event.text)
            case ReasoningDelta():
                self._reasoning.append(event.text)
            case RefusalDelta():
                self._refusal.append(event.text)
            case ToolCallStarted():
                self._calls[event.call] = event
                self._arguments[event.call] = []
            case ToolCallDelta():
                self._arguments[event.call].append(event.arguments)
            case _:
                pass

    def message(self) -> Message:
        """Return the answer as a message."""
        calls = [
            ToolCall(call.id, FunctionCall(call.name, "".join(self._arguments[number])), call.kind)
            for number, call in self._calls.items()
        ]
        return Message(
            "assistant",
            "".join(self._text) if self._text or not calls else None,
            refusal="".join(self._refusal) or None,
            tool_calls=tuple(calls),
            reasoning_content="".join(self._reasoning) or None,
        )


class NextTurns:
    """The prefill for one model. At most one runs, and any request of this process ends it."""

    def __init__(self, engine: Engine, planner: Planner) -> None:
        self._engine = engine
        self._planner = planner
        self._num_open = 0
        self._running: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def held_off(self) -> Generator[None]:
        """Compute nothing in advance while a request runs."""
        self._num_open += 1
        self.stop()
        try:
            yield
        finally:
            self._num_open -= 1

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being computed in advance."""
        return self._running is None or self._running.done()

    def prepare(self, request: ChatRequest, answer: Message) -> None:
        """Begin with the turn after ``answer``, unless requests run."""
        if not self._num_open:
            self._running = asyncio.create_task(self._prefill(request, answer))

    def stop(self) -> None:
        """End what is computed in advance; what is complete stays cached."""
        if self._running is not None:
            self._running.cancel()
            self._running = None

    async def _prefill(self, request: ChatRequest, answer: Message) -> None:
        messages = (*request.messages, answer, *_following(answer))
        # Nobody waits for this. Where the next turn cannot be rendered or computed now, it will be computed when it comes.
        with contextlib.suppress(ApiError, EngineError):
            prompt = await self._planner.prompt_without_selection(msgspec.structs.replace(request, messages=messages))
            if prompt is not None:
                await self._engine.prefill(engine_prompt(_known(prompt)))


def _following(answer: Message) -> list[Message]:
    """Return what the next turn adds: the results of the answer's calls, or a message of the user."""
    if not answer.tool_calls:
        return [Message("user", _UNKNOWN)]
    return [Message("tool", _UNKNOWN, tool_call_id=call.id) for call in answer.tool_calls]


def _known(prompt: Sequence[Piece]) -> list[Piece]:
    """Return the prompt as far as it does not depend on what the next turn says."""
    known: list[Piece] = []
    for piece in prompt:
        text, unknown, _ = piece.text.partition(_UNKNOWN)
        known.append(Piece(text, piece.special))
        if unknown:
            break
    return [piece for piece in known if piece.text]
