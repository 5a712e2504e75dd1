"""From a turn to what is sent and stored: the response as it grows, its frames, and its place in the store."""

from collections.abc import AsyncGenerator

from antiphon.protocol.events import Completed
from antiphon.protocol.rendering import ResponseState, ResponseStream, TurnEvent
from antiphon.protocol.responses.found import with_all_found
from antiphon.server.request.call import Call
from antiphon.server.responses.sealing import Sealer
from antiphon.server.responses.turns import Turn
from antiphon.state import ConversationStore, KeptResponse, ResponseStore


class Answers:
    """What HTTP and WebSocket share. What is stored is written before the last event is sent."""

    def __init__(self, store: ResponseStore, conversations: ConversationStore, sealer: Sealer) -> None:
        self._store = store
        self._conversations = conversations
        self._sealer = sealer

    def begin(self, call: Call, turn: Turn) -> ResponseState:
        """Return a new response, which has said nothing yet."""
        return ResponseState(turn.response_id, call.started_at, turn.request, self._sealer.seal)

    def stream(self, state: ResponseState, turn: Turn) -> ResponseStream:
        """Return what renders the response as events."""
        return ResponseStream(state, obfuscates=turn.chat.include_obfuscation, is_plain=not turn.request.shows_logprobs)

    async def frames(
        self,
        first: TurnEvent,
        rest: AsyncGenerator[TurnEvent],
        stream: ResponseStream,
        turn: Turn,
        *,
        joins: bool = False,
    ) -> AsyncGenerator[bytes]:
        """Yield the frames of a turn's events. ``joins``: those of one event together, since to send costs more than to make."""
        for frame in _sent(stream.feed(first), joins=joins):
            yield frame
        async for event in rest:
            frames = stream.feed(event)
            if isinstance(event, Completed):
                await self.keep(stream.state, turn)
            for frame in frames if len(frames) == 1 else _sent(frames, joins=joins):
                yield frame

    async def keep(self, state: ResponseState, turn: Turn) -> None:
        """Add the items of a response that is over to the conversation, and store it.

        ``ApiError`` 409 if another response was begun in the conversation meanwhile; then nothing is stored.
        """
        is_stored = turn.request.store and self._store.is_on
        if not is_stored and turn.request.conversation is None:
            return
        if turn.request.conversation is not None:
            # First: where the conversation has gone on without it, the response fails.
            output = with_all_found(state.value()["output"], state.found)
            await self._conversations.append(turn.request.conversation, (*turn.items, *output), turn.claim)
        if is_stored:
            await self._store.save(kept_response(state, turn), body=state.encoded(), replaces=turn.request.background)
        # Before the last event is sent: a client that has read it may continue at once.
        await turn.release()

    async def save(self, state: ResponseState, turn: Turn, *, is_new: bool = False) -> None:
        """Store a background response as it is now, whatever its status. ``is_new``: for the first time."""
        await self._store.save(kept_response(state, turn), body=state.encoded(), replaces=not is_new)


def _sent(frames: list[bytes], *, joins: bool) -> list[bytes]:
    return [b"".join(frames)] if joins and frames else frames


def kept_response(state: ResponseState, turn: Turn) -> KeptResponse:
    """Return a response as it is stored, with what a next turn needs of this one."""
    value = state.value()
    return KeptResponse(
        id=value["id"],
        account=turn.account,
        body=value,
        input=turn.items,
        history=turn.history,
        conversation=turn.request.conversation,
        found=state.found,
    )
