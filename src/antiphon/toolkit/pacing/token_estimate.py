"""How many tokens to set aside for a request before its usage is known.

OpenAI charges ``max(max_tokens, characters / 4)`` on admission, and the usage is prompt plus completion. The sum of both
is never less than either. Where a request bounds no completion, the mean of the run so far is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from antiphon.toolkit.usage import Usage
from antiphon.wire.token_estimate import CHARACTERS_PER_TOKEN

_BOUNDS = ("max_completion_tokens", "max_tokens", "max_output_tokens")
_GENERATING = ("messages", "prompt", "instructions")


class TokenEstimator:
    """Estimates requests, and learns how long this run's completions are."""

    def __init__(self) -> None:
        self._completion_tokens = 0
        self._num_completions = 0

    def tokens(self, body: Mapping[str, Any]) -> int:
        """Return the tokens to reserve; at least 1."""
        return max(1, estimate_prompt(body) + self._completion(body) * int(body.get("n") or 1))

    def learn(self, usage: Usage) -> None:
        """Take the length of one more completion into the mean."""
        if usage.completion_tokens:
            self._completion_tokens += usage.completion_tokens
            self._num_completions += 1

    def _completion(self, body: Mapping[str, Any]) -> int:
        bound = next((body[key] for key in _BOUNDS if body.get(key)), None)
        if bound is not None:
            return int(bound)
        if not any(key in body for key in _GENERATING) or not self._num_completions:
            return 0
        return round(self._completion_tokens / self._num_completions)


def estimate_prompt(body: Mapping[str, Any]) -> int:
    """Return the tokens that a request of any route sends."""
    read = [
        body.get(key) for key in ("messages", "input", "prompt", "tools", "response_format", "instructions", "text")
    ]
    return -(-sum(_characters(part) for part in read) // CHARACTERS_PER_TOKEN)


def _characters(value: Any) -> int:
    return sum(len(text) for text in _texts(value))


def _texts(value: Any) -> Iterator[str]:
    """Yield every string below ``value``; token ids count as the four characters that a token has."""
    if isinstance(value, str):
        # An image travels as a data URL; its size says nothing about its tokens.
        yield "" if value.startswith("data:") else value
    elif isinstance(value, Mapping):
        for part in cast("Mapping[str, Any]", value).values():
            yield from _texts(part)
    elif isinstance(value, Sequence):
        for part in cast("Sequence[Any]", value):
            yield from _texts(part)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield "####"
