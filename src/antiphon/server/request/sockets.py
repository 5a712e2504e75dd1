"""What every WebSocket of this server shares: the key in a subprotocol, how many may be open, and a refusal before the handshake."""

from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from antiphon.accounts import Principal
from antiphon.protocol.errors import ApiError, overloaded
from antiphon.protocol.rendering import encode
from antiphon.server.request.asgi import ClientGone, Send
from antiphon.server.request.call import CUT_CONNECTION, JSON_HEADER, Call
from antiphon.server.request.headers import Scope, StandardHeaders, encoded, header

_KEY = "openai-insecure-api-key."
_ACCOUNT = ("openai-organization.", "openai-project.")
_RETRY_S = 5


class SocketSlots:
    """Counts open connections, and refuses those past ``max_open``, or past ``max_per_key`` for one key."""

    def __init__(self, max_open: int, max_per_key: int) -> None:
        self._max_open = max_open
        self._max_per_key = max_per_key
        self._by_account: Counter[str] = Counter()

    @property
    def num_open(self) -> int:
        """The connections of all keys."""
        return self._by_account.total()

    @contextmanager
    def one(self, principal: Principal) -> Generator[None]:
        """Count one connection until the block ends. ``ApiError`` 503 where all places are taken, 429 where the key's are."""
        account = principal.account
        if self.num_open >= self._max_open:
            raise overloaded(retry_after_s=_RETRY_S)
        if self._by_account[account] >= self._max_per_key:
            raise ApiError(
                429,
                f"This key has {self._max_per_key} WebSocket connections open already. Close one of them first.",
                type="requests",
                code="rate_limit_exceeded",
                headers={"retry-after": str(_RETRY_S)},
            )
        self._by_account[account] += 1
        try:
            yield
        finally:
            self._by_account[account] -= 1
            if not self._by_account[account]:
                del self._by_account[account]


def take_key(scope: Scope) -> tuple[str, ...]:
    """Put the key that a page offers as a subprotocol into the header for it; return the other subprotocols.

    A page can set no header. OpenAI's form is ``openai-insecure-api-key.KEY``; organization and project have such forms, too.
    """
    offered: list[str] = scope.get("subprotocols", [])
    keys = [each.removeprefix(_KEY) for each in offered if each.startswith(_KEY)]
    if keys and header(scope, b"authorization") is None:
        scope["headers"] = [*scope["headers"], (b"authorization", b"Bearer " + keys[0].encode("latin-1", "replace"))]
    return tuple(each for each in offered if each and not each.startswith((_KEY, *_ACCOUNT)))


def cut_of(connection: Call) -> Callable[[], None]:
    """Return what closes a connection at once. Other servers than ours (``ray_serve.py``) have none: it ends when its client leaves."""
    return connection.scope.get(CUT_CONNECTION) or (lambda: None)


def response_call(connection: Call, standard_headers: StandardHeaders) -> Call:
    """Return a call for one response within a connection, with an id of its own. Events are its only answer."""
    scope = {key: value for key, value in connection.scope.items() if key != "antiphon.request_id"}
    return Call(standard_headers, scope, connection.receive, _no_answer)


async def _no_answer(message: Any) -> None:  # noqa: ARG001 - the interface's own
    """Refuse to answer as HTTP does."""
    raise ClientGone


async def refuse_socket(send: Send, error: ApiError, request_id: str | None = None) -> None:
    """Answer the request to connect with an error in OpenAI's envelope."""
    named = {} if request_id is None else {"x-request-id": request_id}
    headers = [JSON_HEADER, *encoded({**named, **error.headers})]
    await send({"type": "websocket.http.response.start", "status": error.status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": encode(error.body())})
