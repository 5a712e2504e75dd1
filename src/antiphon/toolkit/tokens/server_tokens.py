"""Counting with the tokenizer of the server that answers, where it has a route for that.

Two kinds are spoken, found out by asking once per endpoint: vLLM's ``/tokenize`` (counts a text or a whole chat, tools
included), and llama.cpp's ``/tokenize`` with ``/apply-template``. Antiphon's own server answers as vLLM does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from openai import APIStatusError

from antiphon.toolkit.clients import Connection, is_about_model
from antiphon.toolkit.tokens.text_estimate import PER_IMAGE, is_image, message_parts

Dialect = Literal["vllm", "llama.cpp"]
_dialects: dict[str, Dialect | None] = {}
_NO_ROUTE = {400, 404, 405, 422, 501}


@dataclass(frozen=True, slots=True)
class ServerCount:
    """What the server counted; not exact where an image had to be estimated."""

    tokens: int
    is_exact: bool
    counted_by: str


async def count_at_server(
    connection: Connection, content: str | Sequence[Mapping[str, Any]], model: str, tools: Sequence[Mapping[str, Any]]
) -> ServerCount | None:
    """Return the count of the endpoint's own tokenizer, or None if it has no such route.

    Raises the client's error if the route is there and fails.
    """
    dialect = await _dialect(connection, model)
    if dialect is None:
        return None
    route = f"{connection.endpoint.root}/tokenize"
    if dialect == "vllm":
        what: dict[str, Any] = {"prompt": content, "add_special_tokens": False}
        if not isinstance(content, str):
            what = {"messages": list(content), **({"tools": list(tools)} if tools else {})}
        told = await connection.post_json(route, {"model": model, **what})
        return ServerCount(int(told["count"]), is_exact=True, counted_by=route)
    if isinstance(content, str):
        return ServerCount(await _llama_text(connection, content, add_special=False), is_exact=True, counted_by=route)
    body = {"messages": list(content), **({"tools": list(tools)} if tools else {})}
    rendered = await connection.post_json(f"{connection.endpoint.root}/apply-template", body)
    num_images = sum(is_image(part) for message in content for part in message_parts(message))
    tokens = await _llama_text(connection, str(rendered["prompt"]), add_special=True)
    return ServerCount(tokens + num_images * PER_IMAGE, is_exact=num_images == 0, counted_by=route)


async def _llama_text(connection: Connection, text: str, *, add_special: bool) -> int:
    body = {"content": text, "add_special": add_special, "parse_special": True}
    told = await connection.post_json(f"{connection.endpoint.root}/tokenize", body)
    return len(told["tokens"])


async def _dialect(connection: Connection, model: str) -> Dialect | None:
    known = connection.endpoint.base_url
    if known not in _dialects:
        # Each server reads its own key and passes over the other's.
        probe = {"model": model, "prompt": "a", "content": "a"}
        try:
            told = cast("object", await connection.post_json(f"{connection.endpoint.root}/tokenize", probe))
        except APIStatusError as error:
            # A route that refuses the model is there.
            if error.status_code not in _NO_ROUTE or is_about_model(error):
                raise
            told = None
        keys = cast("dict[str, Any]", told).keys() if isinstance(told, dict) else set[str]()
        _dialects[known] = "vllm" if "count" in keys else "llama.cpp" if "tokens" in keys else None
    return _dialects[known]


def forget_endpoints() -> None:
    """Ask every server again."""
    _dialects.clear()
