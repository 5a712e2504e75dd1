"""Tokens estimated from characters, where no tokenizer can be asked.

English prose takes about four characters per token with the vocabularies in use, and a script outside ASCII about
one. The result serves to plan, and is always labelled an estimate.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from antiphon.wire.token_estimate import CHARACTERS_PER_TOKEN

# What templates put around a message, and what OpenAI documents for an image of unknown size (1024 x 1024, high).
PER_MESSAGE = 4
PER_IMAGE = 765


def estimate_text(text: str) -> int:
    """Return the estimated number of tokens of ``text``; 0 for the empty string only."""
    # Counted by the encoder: a loop over the characters of a long text would hold up the event loop.
    num_ascii = len(text.encode("ascii", "ignore"))
    return math.ceil(num_ascii / CHARACTERS_PER_TOKEN) + len(text) - num_ascii


def estimate_messages(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> int:
    """Return the estimated number of tokens of a chat prompt with ``tools``."""
    tokens = sum(PER_MESSAGE + sum(map(estimate_text, message_texts(message))) for message in messages)
    tokens += sum(PER_IMAGE for message in messages for part in message_parts(message) if is_image(part))
    return tokens + sum(estimate_text(json.dumps(tool)) for tool in tools)


def message_parts(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the content of ``message`` as a list of parts."""
    content: Any = message.get("content")
    if content is None:
        return []
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def message_texts(message: Mapping[str, Any]) -> list[str]:
    """Return every text of ``message`` that a model reads: content, name, and the calls of tools."""
    texts: list[str] = [str(part.get("text") or part.get("refusal") or "") for part in message_parts(message)]
    texts.extend(str(message[key]) for key in ("name", "refusal") if message.get(key))
    for call in message.get("tool_calls") or ():
        texts.extend(call_texts(call))
    return texts


def call_texts(call: Mapping[str, Any]) -> tuple[str, str]:
    """Return the name, and the arguments or the text, of a call of a tool in the API's form."""
    named: Mapping[str, Any] = call.get("function") or call.get("custom") or {}
    return str(named.get("name", "")), str(named.get("arguments") or named.get("input") or "")


def is_image(part: Mapping[str, Any]) -> bool:
    return part.get("type") == "image_url"
