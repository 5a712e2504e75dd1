"""Reads a request's body within its limit."""

from antiphon.protocol.errors import ApiError
from antiphon.server.request.asgi import ClientGone, Receive
from antiphon.server.request.headers import Scope, header


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """Return the whole body; 413 past ``limit`` bytes, ``ClientGone`` when the client leaves before its end.

    A compressed one is a 415: OpenAI documents no such thing.
    """
    _check_encoding(scope)
    announced = header(scope, b"content-length")
    if announced is not None and announced.isdigit() and int(announced) > limit:
        raise _too_large(limit)
    message = await receive()
    body = message.get("body", b"")
    if not message.get("more_body", False) and message["type"] == "http.request":
        if len(body) > limit:
            raise _too_large(limit)
        return body
    chunks = [body]
    size = len(body)
    while message.get("more_body", False) or message["type"] == "http.disconnect":
        if message["type"] == "http.disconnect":
            raise ClientGone
        message = await receive()
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > limit:
            raise _too_large(limit)
    return b"".join(chunks)


def _check_encoding(scope: Scope) -> None:
    encoding = header(scope, b"content-encoding")
    if encoding is None or encoding.strip().lower() in {"", "identity"}:
        return
    raise ApiError(
        415,
        f"Unsupported content encoding: {encoding!r}. Please send the body as it is, without 'Content-Encoding'.",
        code="unsupported_content_encoding",
        headers={"accept-encoding": "identity"},
    )


def _too_large(limit: int) -> ApiError:
    return ApiError(
        413,
        f"The request body is larger than {limit} bytes, the limit of this server.",
        code="request_too_large",
        headers={"connection": "close"},
    )
