"""The affinity key: requests with the same beginning go to the backend whose prefix cache holds it. Pure.

A conversation keeps its key as it grows: it covers everything up to and including the first user message.
"""

import hashlib
from collections.abc import Iterable

import msgspec

from antiphon.protocol.chat import ChatRequest
from antiphon.protocol.completions import CompletionRequest
from antiphon.protocol.relay import RelayRequest

_PROMPT_CHARACTERS = 512


class _Role(msgspec.Struct):
    role: str = ""


_messages = msgspec.json.Decoder(list[msgspec.Raw])
_role = msgspec.json.Decoder(_Role)


def prefix_key(request: ChatRequest | CompletionRequest | RelayRequest) -> bytes:
    """Return the key; a client's own ``prompt_cache_key`` replaces it."""
    if not isinstance(request, CompletionRequest) and request.prompt_cache_key:
        return request.prompt_cache_key.encode()
    if isinstance(request, RelayRequest):
        return _relayed_key(request)
    if isinstance(request, CompletionRequest):
        # Cut before it becomes text: a prompt may have millions of token ids.
        return str(request.prompts[0][:_PROMPT_CHARACTERS])[:_PROMPT_CHARACTERS].encode()
    return _digest(_until_user((message.role, msgspec.json.encode(message)) for message in request.messages))


def _relayed_key(request: RelayRequest) -> bytes:
    if "messages" not in request.fields:
        return b"".join(
            bytes(request.fields[name])[:_PROMPT_CHARACTERS] for name in ("prompt",) if name in request.fields
        )
    try:
        messages = [bytes(message) for message in _messages.decode(request.fields["messages"])]
        return _digest(_until_user((_role.decode(message).role, message) for message in messages))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # The upstream will refuse it; any backend may report that.
        return b""


def _until_user(messages: Iterable[tuple[str, bytes]]) -> Iterable[bytes]:
    for role, text in messages:
        yield text
        if role == "user":
            return


def _digest(parts: Iterable[bytes]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.digest()
