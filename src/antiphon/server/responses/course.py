"""The course of a turn with tools that the server runs: generate, run what was called, generate again.

It is one response: one stream of events, one usage that sums all generations, one limit of output tokens and one of calls.
Calls of the client's own functions end the turn, and so do calls that wait for an approval; what else was called
with them is run first. ``tool_choice`` "required" asks for one call and is then fulfilled.
"""

import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import msgspec

from antiphon.backends.base import Backend
from antiphon.protocol import problems
from antiphon.protocol.chat import ChatRequest, Tool, ToolChoice
from antiphon.protocol.errors import ApiError
from antiphon.protocol.events import (
    ChoiceFinished,
    Completed,
    Event,
    FinishReason,
    Started,
    ToolCallDelta,
    ToolCallStarted,
)
from antiphon.protocol.rendering import TurnEvent
from antiphon.protocol.responses.file_search import Citations
from antiphon.protocol.responses.found import found_by
from antiphon.protocol.responses.output_items import ItemDone, ItemEvent
from antiphon.protocol.responses.tool_search import NAME as SEARCH
from antiphon.protocol.responses.tools import among, check_number
from antiphon.server.logs import log
from antiphon.server.responses.said import Said
from antiphon.server.responses.server_tool import ServerCall, ServerTool
from antiphon.server.responses.spending import Spending
from antiphon.server.responses.turns import Turn

Json = dict[str, Any]
_ANY_OBJECT: Json = {"type": "object"}
_PLACE = re.compile(r"tools\[(\d+)\]")


class ToolCourse:
    """One turn with tools that the server runs. Iterate ``events`` once; closing it stops generation and tools."""

    def __init__(self, backend: Backend, turn: Turn, spending: Spending) -> None:
        self._backend = backend
        self._turn = turn
        self._spending = spending
        self._said = Said()
        self._citations = Citations()
        self._citations.add(found_by(turn.shown))
        self._num_runs = 0
        self._num_generations = 0
        self._in_words: set[str] = set()

    async def events(self, *, is_started: bool, summary: str | None) -> AsyncGenerator[TurnEvent]:
        """Yield what happens, from the tools' preparation to ``Completed``.

        ``is_started``: a ``Started`` was sent already, with a ``summary`` that replaces the turn's history.
        """
        steps = [*(tool.prepare(self._turn.shown) for tool in self._turn.tools)]
        steps += [tool.resume(self._turn.shown) for tool in self._turn.tools]
        async with aclosing(self._first(steps)) as events:
            async for event in events:
                if not is_started:
                    # The client sees that the response has begun before the first prompt is computed.
                    yield self._opening
                    is_started = True
                yield event
        is_over = False
        while not is_over:
            chat, owners = self._next(summary)
            if chat.max_tokens is not None and chat.max_tokens < 1:
                yield ChoiceFinished(0, "length")
                break
            generation = _Generation(owners, self._num_calls_left)
            async with aclosing(self._answer(chat, owners)) as answer:
                async for event in answer:
                    for shown in self._follow(event, generation):
                        if not (is_started and isinstance(shown, Started)):
                            yield shown
                        is_started = True
            for shown in self._citations.flush():
                yield shown
            self._num_generations += 1
            async with aclosing(self._run(generation)) as running:
                async for event in running:
                    yield event
            is_over = generation.ends_turn
        yield Completed(self._spending.meter.usage, is_estimate=self._spending.is_estimate)

    async def warm_up(self) -> AsyncGenerator[TurnEvent]:
        """Yield what happens when the prompt is computed and nothing is answered: the prefix cache then holds the prompt.

        One token is generated and not shown, since a prompt alone cannot be asked for.
        """
        yield self._opening
        async with aclosing(self._first([tool.prepare(self._turn.shown) for tool in self._turn.tools])) as events:
            async for event in events:
                yield event
        chat, owners = self._next(None)
        async with aclosing(self._answer(msgspec.structs.replace(chat, max_tokens=1), owners)) as answer:
            async for event in answer:
                self._follow(event, _Generation(owners, 0))
        yield ChoiceFinished(0, "stop")
        yield Completed(self._spending.meter.usage, is_estimate=self._spending.is_estimate)

    async def _answer(self, chat: ChatRequest, owners: Mapping[str, ServerTool]) -> AsyncGenerator[Event]:
        """Yield the events of a generation.

        Nobody here wrote the schemas of an MCP server: one that cannot be enforced is shown to the model in words instead.
        """
        while True:
            try:
                async with aclosing(self._backend.chat(chat)) as events:
                    async for event in events:
                        yield event
            except ApiError as error:
                tool = _unenforced(error, chat, owners)
                if tool is None:
                    raise
                log.warning("a tool's schema is not enforced", tool=tool.name, reason=error.message)
                self._in_words.add(tool.name)
                chat = msgspec.structs.replace(chat, tools=tuple(map(self._worded, chat.tools)))
            else:
                return

    def _worded(self, tool: Tool) -> Tool:
        if tool.name not in self._in_words or tool.parameters == _ANY_OBJECT:
            return tool
        schema = msgspec.json.encode(tool.parameters).decode()
        description = f"{tool.description or ''}\nJSON Schema of the arguments: {schema}".strip()
        return msgspec.structs.replace(tool, description=description, parameters=_ANY_OBJECT)

    @property
    def _opening(self) -> Started:
        return Started(self._turn.chat.model, 0, meter=self._spending.meter)

    async def _first(self, steps: Sequence[AsyncGenerator[ItemEvent]]) -> AsyncGenerator[TurnEvent]:
        for step in steps:
            async with aclosing(step) as events:
                async for event in events:
                    yield self._noted(event)

    def _follow(self, event: Any, generation: "_Generation") -> list[TurnEvent]:
        """Take in one event of a generation; return what the client sees of it."""
        match event:
            case Started():
                self._spending.begin(event)
                return [msgspec.structs.replace(event, meter=self._spending.meter)]
            case Completed():
                self._spending.end(event)
                return []
            case _:
                self._spending.refresh()
                self._said.hear(event)
                return [shown for one in generation.take(event) for shown in self._citations.follow(one)]

    async def _run(self, generation: "_Generation") -> AsyncGenerator[TurnEvent]:
        """Run what was called, and say that the turn is over if it is."""
        if generation.ends_turn:
            # What the model said is over before the tools run: the client may begin with calls of its own.
            yield ChoiceFinished(0, generation.reason)
        for tool, call in generation.calls:
            if generation.is_cut:
                for event in tool.abandon(call):
                    yield self._noted(event)
                continue
            async with aclosing(tool.run(call)) as running:
                async for event in running:
                    yield self._noted(event)
        if not generation.ends_turn and any(call.ends_turn for _, call in generation.calls):
            generation.ends_turn = True
            yield ChoiceFinished(0, generation.reason)

    def _noted(self, event: ItemEvent) -> ItemEvent:
        if isinstance(event, ItemDone):
            remembered = event.remembered or event.item
            self._said.add(remembered)
            if remembered["type"] == "file_search_call" and remembered.get("results"):
                self._citations.add(remembered["results"])
            self._num_runs += event.item["type"].endswith("_call")
        return event

    @property
    def _num_calls_left(self) -> int:
        return max(0, self._turn.max_tool_calls - self._num_runs)

    def _next(self, summary: str | None) -> tuple[ChatRequest, dict[str, ServerTool]]:
        """Return the request of the next generation, and whose tools it offers."""
        turn = self._turn
        chat = turn.continued(self._said.items(), summary)
        owners: dict[str, ServerTool] = {}
        tools = list(chat.tools)
        for tool in turn.tools if self._num_calls_left else ():
            for definition in tool.definitions:
                _check_name(definition.name, (*(other.name for other in chat.tools), *owners))
                owners[definition.name] = tool
                tools.append(self._worded(definition))
        check_number(len(tools), "tools")
        limit = turn.chat.max_tokens
        left = None if limit is None else limit - self._spending.answer_tokens
        choice = self._choice(tools)
        return msgspec.structs.replace(chat, tools=tuple(tools), tool_choice=choice, max_tokens=left), owners

    def _choice(self, tools: Sequence[Tool]) -> ToolChoice:
        asked = self._turn.chat.tool_choice
        if self._num_generations and asked.mode == "required":
            asked = ToolChoice("auto", asked.names if self._turn.request.limits_tools else ())
        choice = among(asked, tools)
        if asked.mode == "required" and choice.mode == "none":
            if asked.names == (SEARCH,):
                raise problems.bad_request(f"Tool choice '{SEARCH}' has nothing left to load.", "tool_choice")
            raise ApiError(
                424,
                "The tool that 'tool_choice' requires is not available: its MCP server does not offer it, or could not be "
                "asked for its tools.",
                param="tool_choice",
                code="external_connector_error",
            )
        return choice


class _Generation:
    """The calls of one generation: those that the server runs, and whether the client has some to run.

    Past ``num_calls_left``, calls of the server's tools are ignored, as OpenAI does it.
    """

    def __init__(self, owners: dict[str, ServerTool], num_calls_left: int) -> None:
        self._owners = owners
        self._num_calls_left = num_calls_left
        self._by_number: dict[int, tuple[ServerTool, ServerCall] | None] = {}
        self.reason: FinishReason = "stop"
        self._has_client_call = False
        self.ends_turn = True

    @property
    def calls(self) -> list[tuple[ServerTool, ServerCall]]:
        return [call for call in self._by_number.values() if call is not None]

    @property
    def is_cut(self) -> bool:
        return self.reason in {"length", "content_filter"}

    def take(self, event: Any) -> list[TurnEvent]:
        """Return what the client sees of an event: of a call that the server runs, its item."""
        match event:
            case ToolCallStarted() if event.name in self._owners:
                return self._begin(event)
            case ToolCallDelta() if event.call in self._by_number:
                return self._add(event)
            case ToolCallStarted():
                self._has_client_call = True
                return [event]
            case ChoiceFinished():
                self.reason = event.reason
                self.ends_turn = self._has_client_call or self.is_cut or not self._by_number
                return []
            case _:
                return [event]

    def _begin(self, event: ToolCallStarted) -> list[TurnEvent]:
        if len(self.calls) >= self._num_calls_left:
            self._by_number[event.call] = None
            return []
        tool, call = self._owners[event.name], ServerCall(event.name)
        self._by_number[event.call] = (tool, call)
        return [*tool.begin(call)]

    def _add(self, event: ToolCallDelta) -> list[TurnEvent]:
        found = self._by_number[event.call]
        if found is None:
            return []
        tool, call = found
        call.pieces.append(event.arguments)
        return [*tool.add_arguments(call, event.arguments)]


def _unenforced(error: ApiError, chat: ChatRequest, owners: Mapping[str, ServerTool]) -> Tool | None:
    """Return the tool of the server's whose schema was refused, None for any other error."""
    place = _PLACE.match(error.param or "")
    if error.code != "invalid_function_parameters" or place is None:
        return None
    tool = chat.tools[int(place[1])]
    return tool if tool.name in owners and tool.parameters != _ANY_OBJECT else None


def _check_name(name: str, others: Sequence[str]) -> None:
    if name in others:
        raise problems.bad_request(
            f"Two tools have the name '{name}'. Each tool needs a name of its own.", "tools", "invalid_value"
        )
