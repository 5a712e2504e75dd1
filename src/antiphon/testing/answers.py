"""What a test says that the model answers. A reply is the same value as in the server's script (``[[replies]]``)."""

from collections.abc import Callable
from typing import Any, TypedDict, Unpack

import httpx2

from antiphon.backends.scripted.script import Fault, Reply, ScriptedCall, ScriptedError
from antiphon.protocol.events import FinishReason, Usage

# A function makes the response itself from the request's JSON, for what no reply can say.
Respond = Callable[[dict[str, Any]], httpx2.Response]
Answer = str | Reply | Respond


class ReplyFields(TypedDict, total=False):
    """The fields of a reply other than its text, as in a script; tokens and seconds."""

    reasoning: str
    refusal: str
    tool_calls: tuple[ScriptedCall, ...]
    finish_reason: FinishReason
    usage: Usage
    first_token_s: float
    token_s: float
    error: ScriptedError
    fault: Fault
    after: int


def answer(text: str = "", /, **fields: Unpack[ReplyFields]) -> Reply:
    """Return an answer with this text.

    ``reasoning`` comes before it. ``finish_reason="length"`` is an answer that was cut. ``usage`` replaces the counted
    tokens. ``fault="cut"`` closes the connection once ``after`` tokens were sent, ``fault="hang"`` is a read timeout then.
    """
    return Reply(text=text, **fields)


def calls(name: str, /, *more: ScriptedCall, **arguments: Any) -> Reply:
    """Return an answer that calls the tool ``name`` with ``arguments``, and ``more`` tools in the same answer."""
    return Reply(tool_calls=(ScriptedCall(name, arguments), *more))


def error(
    status: int,
    message: str = "The script answers with an error.",
    *,
    code: str | None = None,
    param: str | None = None,
    retry_after_s: float | None = None,
    after: int = 0,
) -> Reply:
    """Return an error of the API. With ``after`` it ends a stream once that many tokens were sent."""
    kind = "server_error" if status >= 500 else "invalid_request_error"  # noqa: PLR2004 - HTTP
    headers = {} if retry_after_s is None else {"Retry-After": f"{retry_after_s:g}"}
    return Reply(error=ScriptedError(status, message, kind, param, code, headers), after=after)
