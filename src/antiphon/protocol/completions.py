"""A legacy completion request (``POST /v1/completions``), validated."""

from typing import Any

import msgspec

from antiphon.protocol.caching import CacheUse
from antiphon.protocol.chat import Sampling
from antiphon.protocol.priority import Priority


class CompletionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """``prompts``: each a text or a list of token ids; choice ``p * n + k`` is the k-th for prompt p.

    ``logprobs`` is the number of alternatives per token (0..5), None for none at all.
    """

    model: str
    prompts: tuple[str | tuple[int, ...], ...]
    suffix: str | None = None
    sampling: Sampling = Sampling()
    max_tokens: int = 16
    n: int = 1
    best_of: int = 1
    echo: bool = False
    logprobs: int | None = None
    stop: tuple[str, ...] = ()
    stream: bool = False
    include_usage: bool = False
    include_obfuscation: bool = False
    user: str | None = None
    raw: dict[str, Any] = {}
    cache: CacheUse | None = None
    priority: Priority = "interactive"

    def recorded(self) -> dict[str, Any]:
        """Return the parameters that the request's log line keeps."""
        return {"user": self.user} if self.user else {}
