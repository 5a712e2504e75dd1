"""Which requests have one right answer, and the key under which it is stored. Pure.

Answers are stored for temperature 0 and for a seed, where the same request should get the same answer. Fields that do not
change the answer (user, streaming, tags) are left out of the key; all others are in it.
"""

import hashlib
from typing import Any

import msgspec

from antiphon.protocol.chat import ChatRequest
from antiphon.protocol.completions import CompletionRequest
from antiphon.protocol.relay import RelayRequest

_FORMAT = b"4"
"""Changes with what is stored, so that an old store is not misread."""
_WITHOUT_INFLUENCE = frozenset(
    {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"}
)
_pack = msgspec.msgpack.Encoder()


def request_key(request: ChatRequest | CompletionRequest, scope: str) -> bytes | None:
    """Return the key of a validated request; None if its answers are meant to differ."""
    if request.sampling.temperature != 0 and request.sampling.seed is None:
        return None
    neutral: dict[str, Any] = {
        "stream": False,
        "include_usage": False,
        "user": None,
        "raw": {},
        "cache": None,
        "priority": "interactive",
    }
    kind = "completion"
    if isinstance(request, ChatRequest):
        neutral |= {"metadata": {}, "service_tier": None, "prompt_cache_key": None, "safety_identifier": None}
        neutral |= {"store": False, "include_obfuscation": False}
        kind = "chat"
    return _digest(scope, kind, _pack.encode(msgspec.structs.replace(request, **neutral)))


def relay_key(request: RelayRequest, scope: str) -> bytes | None:
    """Return the key of a relayed request, over all its fields that may matter; None if its answers are meant to differ."""
    fields = request.fields
    if request.operation != "embeddings" and not (_is_zero(fields.get("temperature")) or _is_given(fields.get("seed"))):
        return None
    kept = [(name, bytes(value)) for name, value in sorted(fields.items()) if name not in _WITHOUT_INFLUENCE]
    return _digest(scope, request.operation, _pack.encode((request.model, kept)))


def embedding_key(model: str, dimensions: int | None, text: str | tuple[int, ...], scope: str) -> bytes:
    """Return the key of one input's vector."""
    return _digest(scope, "embedding", _pack.encode((model, dimensions, text)))


def _digest(scope: str, kind: str, content: bytes) -> bytes:
    digest = hashlib.blake2b(digest_size=32)
    for part in (_FORMAT, scope.encode(), kind.encode(), content):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()


def _is_given(value: msgspec.Raw | None) -> bool:
    return value is not None and bytes(value) != b"null"


def _is_zero(value: msgspec.Raw | None) -> bool:
    if not _is_given(value):
        return False
    try:
        return float(bytes(value or b"")) == 0
    except ValueError:
        return False
