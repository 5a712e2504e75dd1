"""What calls consumed, in tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from openai.types import CompletionUsage
    from openai.types.create_embedding_response import Usage as EmbeddingUsage
    from openai.types.responses import ResponseUsage


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call, or of several added up with ``+``.

    ``cached_tokens`` and ``cache_write_tokens`` are part of ``prompt_tokens``, read from and written to the server's prompt
    cache, and ``reasoning_tokens`` part of ``completion_tokens``; each is None where the server does not tell it.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    num_calls: int = 1
    cache_write_tokens: int | None = None

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            _add(self.cached_tokens, other.cached_tokens),
            _add(self.reasoning_tokens, other.reasoning_tokens),
            self.num_calls + other.num_calls,
            _add(self.cache_write_tokens, other.cache_write_tokens),
        )

    @classmethod
    def of(cls, usage: CompletionUsage | EmbeddingUsage | ResponseUsage | None) -> Usage | None:
        """Read the client's value; None, or a count that is not a number, gives None, since not reported is not zero."""
        if usage is None:
            return None
        told = usage.to_dict(mode="json", warnings=False)
        generated = {"completion_tokens", "output_tokens"} & type(usage).model_fields.keys()
        return cls.of_json(told) if all(name in told for name in generated) else None

    @classmethod
    def of_json(cls, told: Mapping[str, Any]) -> Usage | None:
        """Read the ``usage`` of a chat completion, a response or embeddings, decoded; None if it has no counts."""
        # A response calls input and output what the others call prompt and completion.
        prompt = told.get("prompt_tokens", told.get("input_tokens"))
        completion = told.get("completion_tokens", told.get("output_tokens", 0))
        if not isinstance(prompt, int) or not isinstance(completion, int):
            return None
        read = told.get("prompt_tokens_details") or told.get("input_tokens_details")
        made = told.get("completion_tokens_details") or told.get("output_tokens_details")
        return cls(
            prompt_tokens=prompt,
            completion_tokens=completion,
            cached_tokens=_detail(read, "cached_tokens"),
            reasoning_tokens=_detail(made, "reasoning_tokens"),
            cache_write_tokens=_detail(read, "cache_write_tokens"),
        )


def _detail(details: Any, name: str) -> int | None:
    count = cast("Mapping[str, Any]", details).get(name) if isinstance(details, Mapping) else None
    return count if isinstance(count, int) else None


NO_USAGE = Usage(num_calls=0)


def _add(left: int | None, right: int | None) -> int | None:
    return None if left is None and right is None else (left or 0) + (right or 0)
