"""The endpoint of ``antiphon.testing``, which plays the last answer for ever, and answers in the manner of one API.

Each answer names a dated model, as OpenAI's do, and reports the same usage, so that a test can count on both.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx2

from antiphon.testing import Answer, ScriptedEndpoint

Reply = Callable[[dict[str, Any]], httpx2.Response]


def usage(prompt: int = 10, completion: int = 5, cached: int = 0) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def answer(
    content: str | None = "ok",
    *,
    calls: list[tuple[str, str, str]] | None = None,
    finish: str | None = None,
    refusal: str | None = None,
    tokens: dict[str, Any] | None = None,
) -> Reply:
    """Answer with text, or with calls of tools given as (id, name, arguments); streamed if it is asked for so."""
    tool_calls = [
        {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}
        for id_, name, arguments in calls or []
    ]
    reason = finish or ("tool_calls" if tool_calls else "stop")

    def respond(request: dict[str, Any]) -> httpx2.Response:
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": refusal}
        if tool_calls:
            message["tool_calls"] = tool_calls
        told = tokens or usage()
        if request.get("stream"):
            return _streamed(request, message, reason, told)
        choice = {"index": 0, "message": message, "finish_reason": reason, "logprobs": None}
        body = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": f"{request['model']}-dated"}
        return httpx2.Response(200, json={**body, "choices": [choice], "usage": told}, headers=_HEADERS)

    return respond


def error(status: int, code: str | None = None, *, headers: dict[str, str] | None = None, message: str = "no") -> Reply:
    body = {"error": {"message": message, "type": "t", "param": None, "code": code}}
    return lambda _: httpx2.Response(status, json=body, headers={**_HEADERS, **(headers or {})})


def broken_stream(*pieces: str, tail: bytes = b"") -> Reply:
    """Stream some text and stop without a finish reason, after ``tail``."""
    return lambda request: httpx2.Response(
        200,
        content=b"".join(_chunk(request, {"content": piece}) for piece in pieces) + tail,
        headers={**_HEADERS, "content-type": "text/event-stream"},
    )


ERROR_CHUNK = b'data: {"error": {"message": "engine died", "type": "server_error", "param": null, "code": null}}\n\n'
_HEADERS = {"x-request-id": "req_1"}


@dataclass
class Endpoint(ScriptedEndpoint):
    """Plays ``replies`` in order, the last one for ever; ``routes`` answer other paths (404 without one)."""

    replies: list[Answer] = field(default_factory=lambda: [answer()])
    repeats: bool = True


def json_route(value: object) -> Reply:
    return lambda _: httpx2.Response(200, json=value)


def _streamed(request: dict[str, Any], message: dict[str, Any], reason: str, told: dict[str, Any]) -> httpx2.Response:
    def chunks() -> Iterator[bytes]:
        yield _chunk(request, {"role": "assistant", "content": None if message.get("tool_calls") else ""})
        text = message["content"] or ""
        for start in range(0, len(text), 4):
            yield _chunk(request, {"content": text[start : start + 4]})
        for index, call in enumerate(message.get("tool_calls", [])):
            opening = {**call, "index": index, "function": {"name": call["function"]["name"], "arguments": ""}}
            yield _chunk(request, {"tool_calls": [opening]})
            yield _chunk(
                request, {"tool_calls": [{"index": index, "function": {"arguments": call["function"]["arguments"]}}]}
            )
        yield _chunk(request, {}, reason)
        if (request.get("stream_options") or {}).get("include_usage"):
            yield _chunk(request, None, told=told)
        yield b"data: [DONE]\n\n"

    return httpx2.Response(200, content=b"".join(chunks()), headers={**_HEADERS, "content-type": "text/event-stream"})


def _chunk(
    request: dict[str, Any], delta: dict[str, Any] | None, reason: str | None = None, told: dict[str, Any] | None = None
) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}]
    body = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": f"{request['model']}-dated"}
    return b"data: " + json.dumps({**body, "choices": choices, "usage": told}).encode() + b"\n\n"
