"""A turn: the new items of a request, those before them, and the one request to a backend that they make."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from antiphon.backends.base import Backend
from antiphon.protocol import problems
from antiphon.protocol.chat import ChatRequest
from antiphon.protocol.errors import ApiError
from antiphon.protocol.responses import ResponseRequest, messages_of, with_ids
from antiphon.protocol.responses.compaction import threshold
from antiphon.protocol.responses.item_fields import kind_of
from antiphon.server.responses.sealing import Sealer
from antiphon.state import ConversationStore, ResponseStore

Json = dict[str, Any]


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """``chat`` is what a backend answers. ``history`` are the items before ``items``, the new ones with their ids.

    ``num_dropped`` items at the beginning were left out of ``chat``, for ``truncation: auto``. ``compacts_first``: a summary
    takes the conversation's place before it is answered, for ``context_management``.
    """

    request: ResponseRequest
    account: str
    chat: ChatRequest
    history: tuple[Json, ...]
    items: tuple[Json, ...]
    num_dropped: int = 0
    compacts_first: bool = False


class Turns:
    """Puts turns together from what is stored."""

    def __init__(
        self, backend: Backend, responses: ResponseStore, conversations: ConversationStore, sealer: Sealer
    ) -> None:
        self._backend = backend
        self._responses = responses
        self._conversations = conversations
        self._sealer = sealer

    async def make(self, request: ResponseRequest, account: str) -> Turn:
        """Return the turn. ``ApiError`` 400 or 404 for what it follows and is not kept here, and for items that do not fit."""
        history = await self._history(request, account)
        items = with_ids(request.input)
        kept = await self._referenced(history, items, account)
        everything = (*history, *items)
        turn = Turn(
            request=request,
            account=account,
            chat=request.with_messages(messages_of(everything, self._sealer.unseal, kept)),
            history=history,
            items=tuple(kept.get(item["id"], item) if kind_of(item) == "item_reference" else item for item in items),
        )
        if request.context_management and not request.compacts_now:
            turn = await self._compacted(turn)
        return await self._truncated(turn, everything, kept) if request.truncates and not turn.compacts_first else turn

    async def _compacted(self, turn: Turn) -> Turn:
        limit = threshold(list(turn.request.context_management), self._context_length(turn.chat.model))
        if limit is None or await self._backend.count_tokens(turn.chat) <= limit:
            return turn
        return msgspec.structs.replace(turn, compacts_first=True)

    def _context_length(self, model: str) -> int | None:
        return next((known.context_length for known in self._backend.models if known.id == model), None)

    async def _history(self, request: ResponseRequest, account: str) -> tuple[Json, ...]:
        if request.previous_response_id is not None:
            previous = (
                await self._responses.find(request.previous_response_id, account) if self._responses.is_on else None
            )
            if previous is None:
                raise problems.bad_request(
                    f"Previous response with id '{request.previous_response_id}' not found.",
                    "previous_response_id",
                    "previous_response_not_found",
                )
            if previous.status in {"queued", "in_progress"}:
                raise problems.bad_request(
                    f"Previous response with id '{previous.id}' is still in progress.", "previous_response_id"
                )
            return previous.items
        if request.conversation is not None:
            if await self._conversations.find(request.conversation, account) is None:
                raise ApiError(404, f"Conversation with id '{request.conversation}' not found.", param="conversation")
            return await self._conversations.items(request.conversation)
        return ()

    async def _referenced(self, history: Sequence[Json], items: Sequence[Json], account: str) -> Mapping[str, Json]:
        kept = {item["id"]: item for item in (*history, *items) if "id" in item and kind_of(item) != "item_reference"}
        missing = [item["id"] for item in items if kind_of(item) == "item_reference" and item["id"] not in kept]
        if missing and self._responses.is_on:
            kept |= await self._responses.find_items(missing, account)
        return kept

    async def _truncated(self, turn: Turn, everything: Sequence[Json], kept: Mapping[str, Json]) -> Turn:
        """Leave out the oldest turns until the prompt fits; the last user message and what follows it always stay."""
        limit = self._context_length(turn.chat.model)
        if limit is None:
            return turn
        room = limit - (turn.chat.max_tokens or 1)
        starts = [at for at, item in enumerate(everything) if kind_of(item) == "message" and item["role"] == "user"]
        for start in [0, *starts[1:]]:
            messages = messages_of(everything[start:], self._sealer.unseal, kept)
            chat = turn.request.with_messages(messages)
            if await self._backend.count_tokens(chat) <= room:
                return msgspec.structs.replace(turn, chat=chat, num_dropped=start)
        return turn
