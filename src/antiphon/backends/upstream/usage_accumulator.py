"""Adds up the usage that a stream reports. Pure.

OpenAI and vLLM report it once, in a chunk without choices. llama-server reports it for each choice: in chats in a chunk
without choices, in completions in the chunk that ends the choice. vLLM's ``continuous_usage_stats`` repeats running totals.
"""

from collections.abc import Sequence
from itertools import groupby

from antiphon.backends.upstream.chunks import MAX_TOKENS
from antiphon.protocol.events import Usage

_MAX_CHOICES = 10_000


class UsageAccumulator:
    """The usage of one stream. ``n``: choices per prompt, which share their prompt's tokens. Its memory is bounded."""

    def __init__(self, n: int = 1) -> None:
        self._n = max(1, n)
        self._totals: list[Usage] = []
        self._by_choice: dict[int, Usage] = {}

    def add(self, usage: Usage, choices: Sequence[int]) -> None:
        """Take in a chunk's usage; ``choices`` are the indices of the choices in the chunk."""
        if not choices:
            # More reports than choices are running totals.
            self._totals = [usage] if len(self._totals) >= min(self._n, _MAX_CHOICES) else [*self._totals, usage]
        for index in choices:
            if 0 <= index < _MAX_CHOICES:
                self._by_choice[index] = usage

    @property
    def total(self) -> Usage | None:
        """The usage of the whole request as reported so far; None if there is none, or the sum is not a count of tokens."""
        if self._totals:
            return _bounded([_shared_prompt(self._totals)])
        if not self._by_choice:
            return None
        ordered = sorted(self._by_choice.items())
        return _bounded(
            [
                _shared_prompt([usage for _, usage in group])
                for _, group in groupby(ordered, key=lambda item: item[0] // self._n)
            ]
        )


def _shared_prompt(parts: Sequence[Usage]) -> Usage:
    return Usage(
        max(usage.prompt_tokens for usage in parts),
        sum(usage.completion_tokens for usage in parts),
        max(usage.cached_tokens for usage in parts),
        sum(usage.reasoning_tokens for usage in parts),
    )


def _bounded(prompts: Sequence[Usage]) -> Usage | None:
    total = Usage(
        sum(usage.prompt_tokens for usage in prompts),
        sum(usage.completion_tokens for usage in prompts),
        sum(usage.cached_tokens for usage in prompts),
        sum(usage.reasoning_tokens for usage in prompts),
    )
    return total if max(total.prompt_tokens, total.completion_tokens) <= MAX_TOKENS else None
