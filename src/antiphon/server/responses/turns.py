"""A turn: the new items of a request, those before them, and the one request to a backend that they make."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

import msgspec

from antiphon.backends.base import Backend
from antiphon.protocol import problems
from antiphon.protocol.chat import ChatRequest, Message, Tool
from antiphon.protocol.errors import ApiError
from antiphon.protocol.ids import new_id
from antiphon.protocol.responses import ResponseRequest, messages_of, with_ids
from antiphon.protocol.responses.compaction import after_summary, threshold
from antiphon.protocol.responses.item_fields import kind_of
from antiphon.protocol.responses.mcp_history import McpRecord
from antiphon.protocol.responses.settings_items import configured
from antiphon.protocol.responses.tools import among
from antiphon.server.responses.sealing import Sealer
from antiphon.server.responses.server_tool import ServerTool, ServerTools
from antiphon.server.responses.tool_search import ToolSearch, WaitingServer
from antiphon.state import Claim, ConversationStore, KeptResponse, ResponseStore

Json = dict[str, Any]
FindResponse = Callable[[str], KeptResponse | None]
"""Finds by its id a response that is remembered somewhere else than in the store."""


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """``chat`` is what a backend answers. ``history`` are the items before ``items``, the new ones with their ids.

    ``response_id`` is the id of the answer.

    ``shown`` are the items that ``chat`` shows: all but ``num_dropped`` at the beginning, which were left out for
    ``truncation: auto``. ``compacts_first``: a summary takes the conversation's place before it is answered, for
    ``context_management``. ``tools`` are run by this server, at most ``max_tool_calls`` times.
    """

    request: ResponseRequest
    response_id: str
    account: str
    chat: ChatRequest
    history: tuple[Json, ...]
    items: tuple[Json, ...]
    shown: tuple[Json, ...]
    render: Callable[[Sequence[Json]], tuple[Message, ...]]
    num_dropped: int = 0
    compacts_first: bool = False
    tools: tuple[ServerTool, ...] = ()
    max_tool_calls: int = 0
    claim: Claim | None = None
    """Of the conversation, from before its items were read; to be released when those of the answer are there."""

    async def release(self) -> None:
        """Let other responses be answered in the conversation."""
        if self.claim is not None:
            await self.claim.release()

    def continued(self, said: Sequence[Json], summary: str | None = None) -> ChatRequest:
        """Return ``chat`` with what was said and loaded since. ``summary`` takes the place of the conversation."""
        chat = self.chat if not said else self._with(said).with_messages(self.render((*self.shown, *said)))
        return chat if summary is None else after_summary(chat, summary)

    def _with(self, said: Sequence[Json]) -> ResponseRequest:
        if not any(item["type"] == "tool_search_output" for item in said):
            return self.request
        return configured(self.request, (*self.history, *self.request.input, *said), len(self.history))

    async def close_tools(self) -> None:
        """Let go of what the tools hold."""
        for tool in self.tools:
            await tool.aclose()


class Turns:
    """Puts turns together from what is stored."""

    def __init__(
        self,
        backend: Backend,
        responses: ResponseStore,
        conversations: ConversationStore,
        sealer: Sealer,
        *,
        tools: ServerTools,
        max_tool_calls: int,
    ) -> None:
        self._backend = backend
        self._tools = tools
        self._max_tool_calls = max_tool_calls
        self._responses = responses
        self._conversations = conversations
        self._sealer = sealer

    async def make(self, request: ResponseRequest, account: str, find_recent: FindResponse | None = None) -> Turn:
        """Return the turn. ``find_recent`` is asked before the store for the response that it follows.

        ``ApiError`` 400 or 404 for what it follows and is not kept here, and for items that do not fit.
        """
        history = await self._history(request, account, find_recent)
        response_id = new_id("resp", "_")
        items = with_ids(request.input, response_id)
        kept = await self._referenced(history, items, account)
        items = tuple(kept.get(item["id"], item) if kind_of(item) == "item_reference" else item for item in items)
        everything = (*history, *items)
        # As they came: an MCP server's token is in the request, and not in the items as they are kept.
        request = configured(request, (*history, *request.input), len(history))
        _check_approvals(everything, request)
        render = partial(messages_of, unseal=self._sealer.unseal, kept=kept)
        turn = Turn(
            request=request,
            response_id=response_id,
            account=account,
            chat=request.with_messages(render(everything)),
            history=history,
            items=items,
            shown=everything,
            render=render,
            tools=self._opened(request, account),
            max_tool_calls=min(request.max_tool_calls or self._max_tool_calls, self._max_tool_calls),
        )
        if request.context_management and not request.compacts_now:
            turn = await self._compacted(turn)
        return await self._truncated(turn) if request.truncates and not turn.compacts_first else turn

    def _opened(self, request: ResponseRequest, account: str) -> tuple[ServerTool, ...]:
        """Return the tools that are run here. What waits for ``tool_search`` is known to it."""
        deferred = {one.path for served in request.served for one in served.deferred if not one.tools}
        tools: list[ServerTool] = []
        for served in request.served:
            tool = self._tools.open(
                msgspec.structs.replace(served, shows_results=request.shows_search_results), account
            )
            label = served.spec.get("server_label")
            tools.append(WaitingServer(label, tool) if label in deferred else tool)
        for tool in tools:
            if isinstance(tool, ToolSearch):
                tool.attach([one for one in tools if isinstance(one, WaitingServer)], len(request.chat.tools))
        return tuple(tools)

    async def make_alone(self, request: ResponseRequest, account: str, find_recent: FindResponse | None) -> Turn:
        """Return the turn as ``make`` does, with a claim to its conversation. ``ApiError`` 409 if another response has it."""
        if request.conversation is None:
            return await self.make(request, account, find_recent)
        claim = await self._conversations.claim(request.conversation, account)
        try:
            return msgspec.structs.replace(await self.make(request, account, find_recent), claim=claim)
        except BaseException:
            if claim is not None:
                await claim.release()
            raise

    async def count_tokens(self, turn: Turn) -> int:
        """Return the length of the turn's first prompt in tokens, exactly: with the definitions of the tools run here."""
        return await self._backend.count_tokens(await self._with_tools(turn))

    async def _with_tools(self, turn: Turn) -> ChatRequest:
        """Return the chat of the first prompt. Tools that are to be asked what they offer are asked now."""
        if not turn.tools:
            return turn.chat
        definitions: list[Tool] = []
        for tool in turn.tools:
            async with aclosing(tool.prepare(turn.shown)) as events:
                async for _ in events:
                    pass
            definitions.extend(tool.definitions)
        await turn.close_tools()
        tools = (*turn.chat.tools, *definitions)
        choice = among(turn.chat.tool_choice, tools)
        return msgspec.structs.replace(turn.chat, tools=tools, tool_choice=choice)

    async def _compacted(self, turn: Turn) -> Turn:
        limit = threshold(list(turn.request.context_management), self._context_length(turn.chat.model))
        if limit is None or await self.count_tokens(turn) <= limit:
            return turn
        return msgspec.structs.replace(turn, compacts_first=True)

    def _context_length(self, model: str) -> int | None:
        return next((known.context_length for known in self._backend.models if known.id == model), None)

    async def _history(
        self, request: ResponseRequest, account: str, find_recent: FindResponse | None
    ) -> tuple[Json, ...]:
        if request.previous_response_id is not None:
            return await self._followed(request.previous_response_id, account, find_recent)
        if request.conversation is not None:
            if await self._conversations.find(request.conversation, account) is None:
                raise ApiError(404, f"Conversation with id '{request.conversation}' not found.", param="conversation")
            return await self._conversations.items(request.conversation)
        return ()

    async def _followed(self, response_id: str, account: str, find_recent: FindResponse | None) -> tuple[Json, ...]:
        previous = None if find_recent is None else find_recent(response_id)
        if previous is None and self._responses.is_on:
            previous = await self._responses.find(response_id, account)
        if previous is None:
            raise problems.bad_request(
                f"Previous response with id '{response_id}' not found.",
                "previous_response_id",
                "previous_response_not_found",
            )
        if previous.status in {"queued", "in_progress"}:
            raise problems.bad_request(
                f"Previous response with id '{previous.id}' is still in progress.", "previous_response_id"
            )
        return previous.items

    async def _referenced(self, history: Sequence[Json], items: Sequence[Json], account: str) -> Mapping[str, Json]:
        kept = {item["id"]: item for item in (*history, *items) if "id" in item and kind_of(item) != "item_reference"}
        missing = [item["id"] for item in items if kind_of(item) == "item_reference" and item["id"] not in kept]
        if missing and self._responses.is_on:
            kept |= await self._responses.find_items(missing, account)
        return kept

    async def _truncated(self, turn: Turn) -> Turn:
        """Leave out the oldest turns until the prompt fits; the last user message and what follows it always stay."""
        limit = self._context_length(turn.chat.model)
        if limit is None:
            return turn
        room = limit - (turn.chat.max_tokens or 1)
        everything = turn.shown
        offered = await self._with_tools(turn)
        starts = [at for at, item in enumerate(everything) if kind_of(item) == "message" and item["role"] == "user"]
        for start in [0, *starts[1:]]:
            shown = everything[start:]
            chat = turn.request.with_messages(turn.render(shown))
            counted = msgspec.structs.replace(offered, messages=chat.messages)
            if await self._backend.count_tokens(counted) <= room:
                return msgspec.structs.replace(turn, chat=chat, shown=shown, num_dropped=start)
        return turn


def _check_approvals(items: Sequence[Json], request: ResponseRequest) -> None:
    """Refuse answers to requests for approval that are not here, and approvals of calls that nothing here could run."""
    record = McpRecord(items)
    record.check_answers()
    labels = {served.spec.get("server_label") for served in request.served}
    for approved in record.approved:
        if approved["server_label"] not in labels:
            raise problems.bad_request(
                f"The call of '{approved['name']}' was approved, but 'tools' has no MCP server with the label "
                f"'{approved['server_label']}' to run it.",
                "tools",
            )
