"""Responses over one WebSocket connection: ``response.create`` in lanes, events as bare JSON, and what was answered remembered.

Follows OpenAI's WebSocket mode. Requests with the same ``stream_id`` are answered one after another, those with different ones at
the same time. A response is remembered in the connection, so the next request can follow it without a store.
"""

import asyncio
import contextlib
import secrets
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, cast

import msgspec

from antiphon.protocol import problems
from antiphon.protocol.errors import ApiError
from antiphon.protocol.rendering import encode
from antiphon.server.logs import log
from antiphon.server.request.asgi import SHUTDOWN, ClientGone, Receive, Send
from antiphon.server.responses.steering import Steering
from antiphon.state import KeptResponse

Json = dict[str, Any]
MAX_LANES = 16
MAX_WAITING = 32
"""Requests of one lane that wait for their turn."""
MAX_REMEMBERED = 16
_LEAVE_S = 10.0
"""How long a client may take to leave a connection that was closed."""
_SEND_S = 60.0
"""How long a client may take to read before it is cut off."""
_MAX_STREAM_ID = 128
_NORMAL, _GOING_AWAY, _RESTART = 1000, 1001, 1012

AnswerCreate = Callable[["ResponseSocket", Json, bytes, str | None], Awaitable[None]]
"""Answers one ``response.create``: the connection, the event as it was decoded, its bytes, its ``stream_id``."""
Decode = Callable[[bytes], AbstractAsyncContextManager[Any]]
"""Gives the value of a message, and counts its bytes as held until the block ends. Raises ``ApiError``."""


class RelayedResponse(msgspec.Struct, frozen=True):
    """A response that ``upstream`` made. ``is_stored``: it can be continued there by its id alone."""

    response: KeptResponse
    upstream: str | None
    is_stored: bool


class RecentResponses:
    """The latest responses of one connection; the oldest go first, by number and by size."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._relayed: dict[str, RelayedResponse] = {}
        self._kept: OrderedDict[str, tuple[KeptResponse, int]] = OrderedDict()
        self._num_bytes = 0

    def add(self, kept: KeptResponse, num_bytes: int) -> None:
        """Remember a response. ``num_bytes``: about what it takes by itself."""
        _, replaced = self._kept.pop(kept.id, (None, 0))
        self._kept[kept.id] = (kept, num_bytes)
        self._num_bytes += num_bytes - replaced
        while len(self._kept) > 1 and (len(self._kept) > MAX_REMEMBERED or self._num_bytes > self._max_bytes):
            oldest, (_, freed) = self._kept.popitem(last=False)
            self._relayed.pop(oldest, None)
            self._num_bytes -= freed

    def add_relayed(self, relayed: RelayedResponse, num_bytes: int) -> None:
        """Remember a response of an upstream. Each model of the connection can continue it."""
        self._relayed[relayed.response.id] = relayed
        self.add(relayed.response, num_bytes)

    def find_relayed(self, response_id: str) -> RelayedResponse | None:
        """Return a response of an upstream that is remembered here."""
        return self._relayed.get(response_id)

    def find(self, response_id: str) -> KeptResponse | None:
        """Return a response that is remembered here."""
        found = self._kept.get(response_id)
        return None if found is None else found[0]


class _Lane:
    """The requests with one ``stream_id``, in the order in which they came."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[Json, bytes, AsyncExitStack]] = deque()
        self.task: asyncio.Task[None] | None = None


class ResponseSocket:
    """One connection, accepted already. ``limit_s``: how long it may last; ``idle_s``: how long it may be idle."""

    def __init__(
        self,
        receive: Receive,
        send: Send,
        answer: AnswerCreate,
        decode: Decode,
        *,
        cut: Callable[[], None],
        limit_s: float,
        idle_s: float,
        max_bytes: int,
    ) -> None:
        self._receive = receive
        self._send = send
        self._answer = answer
        self._decode = decode
        self._cut = cut
        self._limit_s = limit_s
        self._idle_s = idle_s
        self.recent = RecentResponses(max_bytes)
        self.steering = Steering(self.send)
        self._lanes: dict[str | None, _Lane] = {}
        self._news = asyncio.Event()
        self._close_code: int | None = None
        """Set once no further requests are taken: the connection is closed with it when the running ones are over."""
        self.num_responses = 0
        self.id = secrets.token_hex(16)
        """Names this connection to backends."""

    async def serve(self) -> None:
        """Answer until the client leaves, the server ends, or the connection's time is over."""
        reading = asyncio.ensure_future(self._read())
        try:
            await self._watch(reading)
            if not reading.done():
                await self._close()
        finally:
            reading.cancel()
            lanes = [lane.task for lane in self._lanes.values() if lane.task is not None]
            for task in lanes:
                task.cancel()
            for ended in await asyncio.gather(reading, *lanes, return_exceptions=True):
                if isinstance(ended, Exception) and not isinstance(ended, ClientGone | OSError):
                    log.error("fault in a websocket", exc_info=ended)
            for lane in self._lanes.values():
                await _release(lane)
            await self.steering.aclose()

    async def _watch(self, reading: "asyncio.Future[None]") -> None:
        """Return when the connection is to be closed, or was."""
        loop = asyncio.get_running_loop()
        ends_at, idle_since = loop.time() + self._limit_s, loop.time()
        is_limit_said = False
        while not reading.done():
            now = loop.time()
            if self._lanes:
                idle_since = now
            elif self._close_code is not None:
                return
            elif now - idle_since >= self._idle_s:
                self._close_code = _GOING_AWAY
                return
            if now >= ends_at and not is_limit_said:
                is_limit_said = True
                self._close_code = self._close_code or _NORMAL
                await self.send_error(_limit_reached(self._limit_s), None)
                continue
            left = self._idle_s if is_limit_said else min(self._idle_s, ends_at - now)
            self._news.clear()
            news = asyncio.ensure_future(self._news.wait())
            await asyncio.wait({reading, news}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            news.cancel()

    async def _read(self) -> None:
        """Take in messages until the client leaves. They are small work each: answering is the lanes'."""
        while True:
            message = await self._receive()
            kind = message["type"]
            if kind == "websocket.disconnect":
                return
            if kind == SHUTDOWN:
                self._close_code = _RESTART
                self._news.set()
                continue
            text, data = message.get("text"), message.get("bytes")
            await self._take(text.encode() if isinstance(text, str) else bytes(data or b""))

    async def _take(self, data: bytes) -> None:
        stream_id: str | None = None
        try:
            async with AsyncExitStack() as stack:
                event: Any = await stack.enter_async_context(self._decode(data))
                if not isinstance(event, dict):
                    raise _invalid("An event must be a JSON object.", None)
                event = cast("Json", event)
                stream_id = _stream_id(event)
                if event.get("type") == "response.steer":
                    await self._steer(event, data, stack.pop_all)
                elif event.get("type") == "response.create":
                    # The bytes stay counted while the request waits and is answered.
                    self._enqueue(event, data, stream_id, stack.pop_all)
                else:
                    raise problems.not_in_enum(
                        "type", str(event.get("type"))[:64], ("response.create", "response.steer")
                    )
        except ApiError as error:
            await self.send_error(error, stream_id)

    async def _steer(self, event: Json, data: bytes, held: Callable[[], AsyncExitStack]) -> None:
        target: Any = event.get("previous_response_id")
        is_known = isinstance(target, str) and self.recent.find(target) is not None
        refusal = self.steering.refusal(event, is_known=is_known, is_ending=self._close_code is not None)
        if refusal is None:
            self.steering.begin(event, data, held())
        else:
            await self.send(encode(refusal))

    def _enqueue(self, event: Json, data: bytes, stream_id: str | None, held: Callable[[], AsyncExitStack]) -> None:
        if self._close_code is not None:
            raise _limit_reached(self._limit_s) if self._close_code == _NORMAL else _ending()
        lane = self._lanes.get(stream_id)
        if lane is None:
            if len(self._lanes) >= MAX_LANES:
                raise _too_many(f"{MAX_LANES} lanes")
            lane = self._lanes[stream_id] = _Lane()
        if len(lane.waiting) >= MAX_WAITING:
            raise _too_many(f"{MAX_WAITING} waiting requests in a lane")
        lane.waiting.append((event, data, held()))
        if lane.task is None:
            lane.task = asyncio.create_task(self._run(stream_id, lane))

    async def _run(self, stream_id: str | None, lane: _Lane) -> None:
        """Answer a lane's requests; the lane is gone when there are none."""
        try:
            while lane.waiting:
                event, data, held = lane.waiting.popleft()
                try:
                    async with held:
                        await self._answer(self, event, data, stream_id)
                except ApiError as error:
                    await self.send_error(error, stream_id)
        except ClientGone:
            pass
        finally:
            await _release(lane)
            self._lanes.pop(stream_id, None)
            self._news.set()

    async def send(self, text: bytes) -> None:
        """Send one event. Raises ``ClientGone`` where nobody reads any more."""
        try:
            async with asyncio.timeout(_SEND_S):
                await self._send({"type": "websocket.send", "text": text.decode()})
        except TimeoutError:
            self._cut()
            raise ClientGone from None
        except OSError as error:
            raise ClientGone from error

    async def send_error(self, error: ApiError, stream_id: str | None) -> None:
        """Send an error that is not part of a response."""
        value: Json = {"type": "error", "status": error.status, "error": error.body()["error"]}
        if error.headers:
            value["error"] = value["error"] | {"headers": dict(error.headers)}
        if stream_id is not None:
            value["stream_id"] = stream_id
        with contextlib.suppress(ClientGone):
            await self.send(encode(value))

    async def _close(self) -> None:
        """Close the connection, and give the client a moment to see it."""
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_SEND_S):
                await self._send({"type": "websocket.close", "code": self._close_code or _NORMAL})
        asyncio.get_running_loop().call_later(_LEAVE_S, self._cut)


async def _release(lane: _Lane) -> None:
    while lane.waiting:
        await lane.waiting.popleft()[2].aclose()


def bare(frame: bytes, stream_id: str | None) -> bytes:
    """Return the JSON of a server-sent event, with the lane that it belongs to."""
    return in_lane(frame[frame.find(b"data: ") + len(b"data: ") :].removesuffix(b"\n\n"), stream_id)


def in_lane(event: bytes, stream_id: str | None) -> bytes:
    """Return the JSON object of an event with the lane that it belongs to; the same bytes outside of lanes."""
    if stream_id is None:
        return event
    fields = event.rstrip()[:-1].rstrip()
    comma = b"" if fields.endswith(b"{") else b","
    return fields + comma + b'"stream_id":' + msgspec.json.encode(stream_id) + b"}"


def _stream_id(event: Json) -> str | None:
    given = event.get("stream_id")
    if given is None:
        return None
    if not isinstance(given, str) or not 0 < len(given) <= _MAX_STREAM_ID:
        raise _invalid(f"Invalid 'stream_id': expected a string of 1 to {_MAX_STREAM_ID} characters.", "stream_id")
    return given


def _invalid(message: str, param: str | None) -> ApiError:
    return problems.bad_request(message, param, "invalid_value")


def _limit_reached(limit_s: float) -> ApiError:
    return ApiError(
        400,
        f"Responses websocket connection limit reached ({limit_s / 60:g} minutes). Create a new websocket connection to "
        "continue.",
        code="websocket_connection_limit_reached",
    )


def _ending() -> ApiError:
    return ApiError(503, "The server is ending. Create a new websocket connection.", type="server_error")


def _too_many(what: str) -> ApiError:
    return ApiError(
        429,
        f"This connection has {what} already; wait for responses before you send more requests.",
        type="requests",
        code="rate_limit_exceeded",
    )
