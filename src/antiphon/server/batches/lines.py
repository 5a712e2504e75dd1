"""Answers one request of a batch with the same handlers that answer it over HTTP."""

import asyncio
import secrets
from collections.abc import Mapping, MutableMapping
from typing import Any

import msgspec

from antiphon.accounts import Accounts, BatchBilling
from antiphon.accounts.usage import UsageRow
from antiphon.batches import BatchLine, FinishedLine
from antiphon.protocol.errors import ApiError, server_fault
from antiphon.server.logs import log
from antiphon.server.request.call import Call, Handler
from antiphon.server.request.headers import StandardHeaders

_FIRST_ERROR = 400
_PASSING = {409, 429, 500, 502, 503, 504}
_WAITED_FOR = {409, 429, 503}
"""Statuses that say when to come back; they are tried until the batch expires. 409: a conversation is taken."""
_MAX_FAULTS = 4
"""Attempts after which any other status that may pass is the request's answer."""
_LONGEST_PAUSE_S = 30.0
_encode = msgspec.json.Encoder().encode


class LineAnswer(msgspec.Struct, frozen=True):
    """An answer as it would have gone over the wire, and the usage rows that the request left."""

    status: int
    headers: dict[str, str]
    body: bytes
    request_id: str
    rows: tuple[UsageRow, ...] = ()

    def pause_s(self, attempt: int) -> float | None:
        """Return after how long the request is to be tried again; None if this is its answer. ``attempt`` counts from 0."""
        if self.status not in _PASSING or self.headers.get("x-should-retry") == "false":
            return None
        if self.status not in _WAITED_FOR and attempt + 1 >= _MAX_FAULTS:
            return None
        try:
            asked = float(self.headers.get("retry-after", ""))
        except ValueError:
            asked = 0.0
        return min(_LONGEST_PAUSE_S, max(asked, 0.5 * 2 ** min(attempt, 6)))

    def finished(self, line: BatchLine) -> FinishedLine:
        """Return the answer as a line of the output file, or of the error file."""
        value = {
            "id": f"batch_req_{secrets.token_hex(16)}",
            "custom_id": line.custom_id,
            "response": {"status_code": self.status, "request_id": self.request_id, "body": _json(self.body)},
            "error": None,
        }
        return FinishedLine(line.number, self.status >= _FIRST_ERROR, _encode(value), self.rows)


def not_executed(line: BatchLine, code: str, message: str) -> FinishedLine:
    """Return the line of the error file for a request that was never answered."""
    value = {
        "id": f"batch_req_{secrets.token_hex(16)}",
        "custom_id": line.custom_id,
        "response": None,
        "error": {"code": code, "message": message},
    }
    return FinishedLine(line.number, True, _encode(value))


class LineRunner:
    """``price_factor`` is the part of the price that a request of a batch costs."""

    def __init__(self, accounts: Accounts, headers: StandardHeaders, price_factor: float) -> None:
        self._accounts = accounts
        self._handlers: Mapping[str, Handler] = {}
        self._headers = headers
        self._price_factor = price_factor

    def answer_with(self, handlers: Mapping[str, Handler]) -> None:
        """Set the handlers, by endpoint; the application that has them is made after this object."""
        self._handlers = handlers

    async def run(self, endpoint: str, line: BatchLine, account: str) -> LineAnswer:
        """Answer one request of ``account``. Cancelling it stops its work, as a client that leaves does."""
        received: list[bytes] = []
        head: MutableMapping[str, Any] = {}
        is_read = False

        async def receive() -> MutableMapping[str, Any]:
            nonlocal is_read
            if is_read:
                await asyncio.Event().wait()  # nobody disconnects
            is_read = True
            return {"type": "http.request", "body": line.body, "more_body": False}

        async def send(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                head.update(message)
            else:
                received.append(message.get("body", b""))

        scope = {
            "type": "http",
            "method": "POST",
            "path": endpoint,
            "query_string": b"",
            "headers": [(b"content-type", b"application/json")],
        }
        call = Call(self._headers, scope, receive, send)
        call.billing = BatchBilling(self._price_factor)
        await self._answer(call, endpoint, account)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head["headers"]}
        # Whatever the request was refused by on its way, its last row says how it ended.
        rows = tuple(call.billing.rows[-1:])
        return LineAnswer(head["status"], headers, b"".join(received), call.request_id, rows)

    async def _answer(self, call: Call, endpoint: str, account: str) -> None:
        try:
            call.principal = await self._accounts.principal_of(account)
            await self._handlers[endpoint](call)
        except ApiError as error:
            await call.fail(error)
        except Exception:  # noqa: BLE001 - whatever it was, the request has an answer
            log.exception("fault", request_id=call.request_id, path=endpoint)
            if call.status is None:
                await call.fail(server_fault(call.request_id))


def _json(body: bytes) -> Any:
    """Return a body as a part of JSON; an upstream's text as a string."""
    try:
        msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body.decode("utf-8", "replace")
    return msgspec.Raw(body)
