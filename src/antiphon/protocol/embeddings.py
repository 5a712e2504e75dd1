"""An embedding request, validated, and its result."""

from typing import Any, Literal

import msgspec

from antiphon.protocol.caching import CacheUse
from antiphon.protocol.events import Spared
from antiphon.protocol.priority import Priority


class EmbeddingRequest(msgspec.Struct, frozen=True, kw_only=True):
    """``inputs``: each a text or a list of token ids, at most 2,048 of them."""

    model: str
    inputs: tuple[str | tuple[int, ...], ...]
    dimensions: int | None = None
    encoding_format: Literal["float", "base64"] = "float"
    user: str | None = None
    raw: dict[str, Any] = {}
    cache: CacheUse | None = None
    priority: Priority = "interactive"

    def recorded(self) -> dict[str, Any]:
        """Return the parameters that the request's log line keeps."""
        return {"user": self.user} if self.user else {}


class EmbeddingResult(msgspec.Struct, frozen=True):
    """``vectors`` holds one little-endian float32 buffer per input, in order, each of unit length.

    ``cached_inputs`` of them came from the response cache, None where it was not asked; ``prompt_tokens`` counts what was
    computed, ``input_tokens`` the tokens of each input by itself, None where an API reported only their sum. ``spared`` is what the
    cached inputs would have added, None if there are none or they were not measured.
    """

    model: str
    vectors: tuple[bytes, ...]
    prompt_tokens: int
    compute_s: float | None = None
    cached_inputs: int | None = None
    input_tokens: tuple[int, ...] | None = None
    spared: Spared | None = None
