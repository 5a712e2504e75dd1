"""From a request's bytes to its turn: decoded, checked, put together with what it follows, and noted in the log line."""

from typing import Any

import msgspec

from antiphon.accounts import Principal
from antiphon.protocol import decode_json
from antiphon.protocol.rendering import encode
from antiphon.protocol.responses import ResponseRequest, parse_response
from antiphon.protocol.responses.tools import HostedTools
from antiphon.server.request.access import Access
from antiphon.server.request.body import RequestBodies
from antiphon.server.request.call import Call
from antiphon.server.responses.hosted_tools import hosted_tools_of
from antiphon.server.responses.server_tool import ServerTools
from antiphon.server.responses.turns import FindResponse, Turn, Turns

LEFT_OUT = "x-antiphon-left-out"
"""Header: the hosted tools that a request named and the model was not offered."""
DROPPED = "x-antiphon-dropped-items"
"""Header: how many of the oldest items ``truncation: auto`` left out."""
_MAX_NOTED = 500


class ResponseIntake:
    """What HTTP and WebSocket share before anything is generated. ``can_store``: whether this server keeps responses."""

    def __init__(
        self,
        access: Access,
        bodies: RequestBodies,
        turns: Turns,
        tools: ServerTools,
        *,
        hosted_tools: HostedTools,
        can_store: bool,
    ) -> None:
        self._access = access
        self._bodies = bodies
        self._turns = turns
        self._tools = tools
        self._hosted_tools: HostedTools = hosted_tools
        self._can_store = can_store

    async def decoded(self, principal: Principal, body: bytes, content_type: str | None) -> Any:
        """Return the body's JSON value. ``ApiError`` 400, or 404 for a model that the key may not use."""
        value: Any = await self._bodies.work(body, decode_json, body, content_type)
        self._access.require_named_model(principal, value)
        return value

    async def parsed(self, call: Call, body: bytes, value: Any) -> ResponseRequest:
        """Return the request that ``value`` is; ``body`` is what it was decoded from. Raises ``ApiError`` 400."""
        hosted_tools = hosted_tools_of(call, self._hosted_tools)
        request = await self._bodies.work(body, self._parse, value, hosted_tools)
        request = msgspec.structs.replace(request, chat=msgspec.structs.replace(request.chat, priority=call.priority))
        call.note["model"] = request.chat.model
        if recorded := request.chat.recorded():
            call.note["recorded"] = recorded
        if request.client_metadata is not None:
            call.note["client_metadata"] = encode(request.client_metadata)[:_MAX_NOTED].decode(errors="replace")
        return request

    async def turn(
        self, call: Call, request: ResponseRequest, account: str, find_recent: FindResponse | None = None
    ) -> Turn:
        """Return the request's turn, which the caller has to release, and say in headers and in the log line what the model is not shown."""
        turn = await self._turns.make_alone(request, account, find_recent)
        if turn.request.left_out:
            call.extra[LEFT_OUT] = call.note["left_out_tools"] = ", ".join(turn.request.left_out)
        if turn.num_dropped:
            call.note["dropped_items"] = turn.num_dropped
            call.extra[DROPPED] = str(turn.num_dropped)
        return turn

    def _parse(self, value: Any, hosted_tools: HostedTools) -> ResponseRequest:
        return parse_response(value, hosted_tools=hosted_tools, served=self._tools.kinds, can_store=self._can_store)
