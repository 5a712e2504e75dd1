"""What calls consumed, in tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openai.types import CompletionUsage
    from openai.types.create_embedding_response import Usage as EmbeddingUsage


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call, or of several added up with ``+``.

    ``cached_tokens`` are part of ``prompt_tokens`` and ``reasoning_tokens`` part of
    ``completion_tokens``; both are None where the server does not tell them.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    num_calls: int = 1

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
        )

    @classmethod
    def of(cls, usage: CompletionUsage | EmbeddingUsage | None) -> Usage | None:
        """Read the client's value; None, or a count that is not a number, gives None, since not reported is not zero."""
        if usage is None:
            return None
        counts: list[Any] = [usage.prompt_tokens, getattr(usage, "completion_tokens", 0)]
        if not all(isinstance(count, int) for count in counts):
            return None
        prompt = getattr(usage, "prompt_tokens_details", None)
        completion = getattr(usage, "completion_tokens_details", None)
        return cls(
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=counts[1],
            cached_tokens=_whole(getattr(prompt, "cached_tokens", None)),
            reasoning_tokens=_whole(getattr(completion, "reasoning_tokens", None)),
        )


def _whole(count: Any) -> int | None:
    return count if isinstance(count, int) else None


NO_USAGE = Usage(num_calls=0)


def _add(left: int | None, right: int | None) -> int | None:
    return None if left is None and right is None else (left or 0) + (right or 0)
