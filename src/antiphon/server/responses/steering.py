"""``response.steer``: input for a response that runs, on its way to the upstream that makes it.

Follows OpenAI's mid-turn steering. An upstream that accepts the input takes it into a response that it begins by itself, or keeps
it queued until the client's next request. Input that is taken in nowhere comes back in ``response.steer.failed``.
"""

import asyncio
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from typing import Any, cast

import msgspec

from antiphon.protocol.rendering import encode
from antiphon.server.request.asgi import ClientGone

Json = dict[str, Any]
MAX_STEERS = 32
"""Input of one connection that no response has taken in yet."""
_FIELDS = frozenset({"type", "input", "previous_response_id"})
_SAYS = b'"response.steer.'

Send = Callable[[bytes], Awaitable[None]]
SendOn = Callable[[str], Awaitable[bool]]
"""Sends a ``response.steer`` on; False if the response is over."""


class RunningResponse:
    """A response that is being answered in the lane ``stream_id``. ``send_on`` is None where it cannot be steered, because ``why_not``."""

    def __init__(self, stream_id: str | None, send_on: SendOn | None, why_not: str = "") -> None:
        self.stream_id = stream_id
        self.send_on = send_on
        self.why_not = why_not
        self.in_order = asyncio.Lock()


class Steer:
    """Input that no response has taken in yet. ``id`` is None until the upstream accepts it. ``held`` counts its bytes."""

    def __init__(self, event: Json, data: bytes, stream_id: str | None, held: AsyncExitStack) -> None:
        self.input: Any = event["input"]
        self.parent: str = event["previous_response_id"]
        self.data = data
        self.stream_id = stream_id
        self.held = held
        self.id: str | None = None
        self.is_sent = False
        self.is_queued = False

    @property
    def items(self) -> list[Json]:
        """Its input as items."""
        return items_of(self.input)


class _Said(msgspec.Struct):
    type: Any = None
    steer: Any = None


_said = msgspec.json.Decoder(_Said)


class Steering:
    """The input of one connection that steers. ``send`` sends an event to the client; it raises ``ClientGone``."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._running: dict[str, RunningResponse] = {}
        self._steers: list[Steer] = []
        self._over: list[Steer] = []
        self._sending: set[asyncio.Task[None]] = set()

    @contextmanager
    def answering(self, response_id: str | None, running: RunningResponse) -> Generator[None]:
        """Have the response steered as ``running`` says until the block ends."""
        if response_id is None:
            yield
            return
        self._running[response_id] = running
        try:
            yield
        finally:
            if self._running.get(response_id) is running:
                del self._running[response_id]

    def refusal(self, event: Json, *, is_known: bool, is_ending: bool) -> Json | None:
        """Return the event that refuses an input, None for one that can be sent on. ``is_known``: its response was here."""
        given, target = event.get("input"), event.get("previous_response_id")
        if event.keys() - _FIELDS or not isinstance(target, str) or not isinstance(given, str | list) or not given:
            words = "response.steer takes 'previous_response_id' and 'input', and nothing else."
            return _failed(given, target, "invalid_input", words)
        running = self._running.get(target)
        if running is not None:
            return self._not_taken(given, target, running, is_ending=is_ending)
        if is_known:
            return _completed(given, target, None)
        return _failed(given, target, "response_not_found", "This connection has no such response.")

    def begin(self, event: Json, data: bytes, held: AsyncExitStack) -> None:
        """Send an input on that was not refused. A slow upstream holds up nobody else's messages."""
        running = self._running[event["previous_response_id"]]
        steer = Steer(event, data, running.stream_id, held)
        self._steers.append(steer)
        task = asyncio.create_task(self._send_on(running, steer))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def note(self, event: bytes, stream_id: str | None) -> None:
        """Take in what an event of the lane says of input that was sent."""
        if _SAYS not in event or not self._steers:
            return
        try:
            said = _said.decode(event)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return
        steer_id: Any = cast("Json", said.steer).get("id") if isinstance(said.steer, dict) else None
        lane = [steer for steer in self._steers if steer.stream_id == stream_id]
        named = next((steer for steer in lane if steer.id is not None and steer.id == steer_id), None)
        oldest = next((steer for steer in lane if steer.is_sent and steer.id is None), None)
        if said.type == "response.steer.accepted" and oldest is not None and isinstance(steer_id, str):
            oldest.id = steer_id
        elif said.type == "response.steer.pending" and named is not None:
            named.is_queued = True
        elif said.type == "response.steer.failed" and (failed := named or oldest) is not None:
            self._drop([failed])
        await self.settle()

    def accepted(self, stream_id: str | None) -> list[Steer]:
        """Return what the lane's upstream takes into the response that it begins by itself."""
        return [each for each in self._steers if each.stream_id == stream_id and each.id and not each.is_queued]

    def queued(self, response_id: Any) -> list[Steer]:
        """Return what the upstream keeps for the request that continues a response."""
        return [each for each in self._steers if each.is_queued and each.parent == response_id]

    async def taken_in(self, steers: Sequence[Steer]) -> None:
        """Forget input that a response has taken in."""
        self._drop(steers)
        await self.settle()

    def lost(self, stream_id: str | None, number: int) -> list[bytes]:
        """Forget what the lane's upstream can take in no more, and return the events that give it back; ``number`` is the first's."""
        lost = [each for each in self._steers if each.stream_id == stream_id and each.is_sent and not each.is_queued]
        self._drop(lost)
        words = "The upstream's connection ended before a response took the input in."
        return [
            encode(_failed(each.input, each.parent, "successor_creation_failed", words, steer_id=each.id, number=place))
            for place, each in enumerate(lost, number)
        ]

    async def settle(self) -> None:
        """Free the memory of what is over."""
        while self._over:
            await self._over.pop().held.aclose()

    async def aclose(self) -> None:
        """The connection is over."""
        sending = list(self._sending)
        for task in sending:
            task.cancel()
        await asyncio.gather(*sending, return_exceptions=True)
        self._drop(list(self._steers))
        await self.settle()

    async def _send_on(self, running: RunningResponse, steer: Steer) -> None:
        assert running.send_on is not None
        async with running.in_order:
            steer.is_sent = True
            if await running.send_on(steer.data.decode()):
                return
            steer.is_sent = False
        if steer in self._steers:
            self._drop([steer])
            await self.settle()
            with suppress(ClientGone):
                await self._send(encode(_completed(steer.input, steer.parent, steer.stream_id)))

    def _not_taken(self, given: Any, target: str, running: RunningResponse, *, is_ending: bool) -> Json | None:
        """Return the event that refuses an input to a response that runs, None for one that it takes."""
        lane = running.stream_id
        if running.send_on is None:
            return _failed(given, target, "steering_not_supported", running.why_not, stream_id=lane)
        if is_ending:
            words = "This connection takes no more input. Create a new websocket connection."
            return _failed(given, target, "response_not_active", words, stream_id=lane)
        if len(self._steers) >= MAX_STEERS:
            words = f"This connection has {MAX_STEERS} inputs that wait to be taken in."
            return _failed(given, target, "too_many_pending_steers", words, stream_id=lane)
        return None

    def _drop(self, steers: Sequence[Steer]) -> None:
        for steer in steers:
            self._steers.remove(steer)
            self._over.append(steer)


def items_of(given: Any) -> list[Json]:
    """Return the input of a request as items; anything else is for the upstream to refuse."""
    if isinstance(given, str):
        return [{"type": "message", "role": "user", "content": given}]
    return [{"type": "message", **item} for item in cast("list[Json]", given)] if are_items(given) else []


def are_items(given: Any) -> bool:
    """Whether a JSON value is a list of objects."""
    return isinstance(given, list) and all(isinstance(item, dict) for item in cast("list[Any]", given))


def _completed(given: Any, target: str, stream_id: str | None) -> Json:
    words = "The response is over. Send the input with response.create."
    return _failed(given, target, "response_already_completed", words, stream_id=stream_id)


def _failed(
    given: Any,
    target: Any,
    code: str,
    message: str,
    *,
    steer_id: str | None = None,
    stream_id: str | None = None,
    number: int = 0,
) -> Json:
    steer: Json = {"input": given, "previous_response_id": target}
    event: Json = {
        "type": "response.steer.failed",
        "sequence_number": number,
        "error": {"type": "invalid_request_error", "code": code, "message": message},
        "steer": steer if steer_id is None else {"id": steer_id, **steer},
    }
    return event if stream_id is None else {**event, "stream_id": stream_id}
