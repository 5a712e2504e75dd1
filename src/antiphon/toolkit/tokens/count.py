"""How many tokens a text or a conversation takes, at the endpoint that will read it.

OpenAI's own models are counted here with tiktoken, also at Azure. Any other endpoint is asked (a server's tokenizer route); where it
does not tell, the count is an estimate. Each count says which it is, and how it was made.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from openai import APIError

from antiphon.toolkit._sync import portal
from antiphon.toolkit.clients import DEFAULT_MODEL, Client, Connection, connect, portal_client
from antiphon.toolkit.errors import TokenizerError
from antiphon.toolkit.tokens.openai_tokens import OpenAICounter
from antiphon.toolkit.tokens.ranks import encoding_name, load_encoding
from antiphon.toolkit.tokens.server_tokens import count_at_server
from antiphon.toolkit.tokens.text_estimate import estimate_messages, estimate_text

Message = Mapping[str, Any]
Quality = Literal["exact", "estimate"]


@dataclass(frozen=True, slots=True)
class TokenCount:
    """A number of tokens, whether it is exact, and what counted it. ``int(count)`` is the number."""

    tokens: int
    quality: Quality
    counted_by: str

    @property
    def is_exact(self) -> bool:
        return self.quality == "exact"

    def __int__(self) -> int:
        return self.tokens

    def __add__(self, other: TokenCount) -> TokenCount:
        exact = self.is_exact and other.is_exact
        by = self.counted_by if self.counted_by == other.counted_by else f"{self.counted_by}; {other.counted_by}"
        return TokenCount(self.tokens + other.tokens, "exact" if exact else "estimate", by)

    def __str__(self) -> str:
        return f"{self.tokens} tokens ({self.quality}: {self.counted_by})"


async def acount_tokens(
    content: str | Sequence[Message],
    *,
    model: str = DEFAULT_MODEL,
    tools: Sequence[Mapping[str, Any]] = (),
    client: Client | None = None,
) -> TokenCount:
    """Do what ``count_tokens`` does, from asynchronous code."""
    return await _count(content, model, tools, client, lambda: client)


def count_tokens(
    content: str | Sequence[Message],
    *,
    model: str = DEFAULT_MODEL,
    tools: Sequence[Mapping[str, Any]] = (),
    client: Client | None = None,
) -> TokenCount:
    """Count a text, or a list of chat messages as a prompt (roles, separators and the start of the answer included).

    ``tools`` are the definitions sent with the messages. ``client`` None is OpenAI, or the endpoint that
    ``OPENAI_BASE_URL`` names. Reads the network only for an endpoint that is not OpenAI's, and for tiktoken's rank
    files the first time. Never raises for want of a tokenizer: it estimates, and says so.
    """
    return portal.call(_count(content, model, tools, client, lambda: portal_client(client)))


async def _count(
    content: str | Sequence[Message],
    model: str,
    tools: Sequence[Mapping[str, Any]],
    given: Client | None,
    used: Callable[[], Client | None],
) -> TokenCount:
    """Count offline where no endpoint is named, which needs no key; else through the client that is ``used``."""
    if given is None and not os.environ.get("OPENAI_BASE_URL"):
        return count_offline(content, model, tools)
    async with connect(used()) as connection:
        return await count_through(connection, content, model, tools)


async def count_through(
    connection: Connection,
    content: str | Sequence[Message],
    model: str,
    tools: Sequence[Mapping[str, Any]] = (),
) -> TokenCount:
    """Count as the endpoint of ``connection`` does; an endpoint that does not tell gets an estimate."""
    # Azure calls a model by the name of its deployment, which often is the model's; it has no tokenizer to ask.
    if connection.endpoint.is_openai or connection.endpoint.is_azure:
        return count_offline(content, model, tools)
    try:
        told = await count_at_server(connection, content, model, tools)
    except APIError as error:
        return _estimate(content, tools, f"the server's tokenizer failed: {error.message}")
    except (KeyError, TypeError, ValueError):
        return _estimate(content, tools, "the server's tokenizer gave no count")
    if told is None:
        return _estimate(content, tools, f"{connection.endpoint.base_url} does not tell")
    return TokenCount(told.tokens, "exact" if told.is_exact else "estimate", told.counted_by)


def count_offline(content: str | Sequence[Message], model: str, tools: Sequence[Mapping[str, Any]] = ()) -> TokenCount:
    """Count as OpenAI does, without asking anyone; a model that tiktoken does not know gets an estimate."""
    name = encoding_name(model)
    if name is None:
        return _estimate(content, tools, f"no tokenizer is known for {model!r}")
    try:
        counter = OpenAICounter(load_encoding(name), model)
    except TokenizerError as error:
        return _estimate(content, tools, error.message)
    if isinstance(content, str):
        return TokenCount(counter.text(content), "exact", f"tiktoken {name}")
    tokens, is_documented = counter.prompt(content, tools)
    return TokenCount(tokens, "exact" if is_documented else "estimate", f"tiktoken {name}")


def _estimate(content: str | Sequence[Message], tools: Sequence[Mapping[str, Any]], why: str) -> TokenCount:
    tokens = estimate_text(content) if isinstance(content, str) else estimate_messages(content, tools)
    return TokenCount(tokens, "estimate", f"characters; {why}")
