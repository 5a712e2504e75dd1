"""Adds up what a stream says of its usage. Pure.

OpenAI and vLLM say it once, in a chunk without choices. llama-server says it for each choice by itself: in chats in a chunk
without choices, in completions in the chunk that ends the choice. vLLM's ``continuous_usage_stats`` repeats running totals.
"""

from collections.abc import Sequence
from itertools import groupby

from antiphon.protocol.events import Usage


class UsageAccumulator:
    """The usage of one stream. ``n``: choices per prompt, which share their prompt's tokens."""

    def __init__(self, n: int = 1) -> None:
        self._n = max(1, n)
        self._totals: list[Usage] = []
        self._by_choice: dict[int, Usage] = {}

    def add(self, usage: Usage, choices: Sequence[int]) -> None:
        """Take in a chunk's usage; ``choices`` are the indices of the choices in the chunk."""
        if not choices:
            self._totals.append(usage)
        for index in choices:
            self._by_choice[index] = usage

    @property
    def total(self) -> Usage | None:
        """The usage of the whole request as far as it was told, None if it was not."""
        if self._totals:
            return _shared_prompt(self._totals)
        if not self._by_choice:
            return None
        ordered = sorted(self._by_choice.items())
        prompts = [
            _shared_prompt([usage for _, usage in group])
            for _, group in groupby(ordered, key=lambda item: item[0] // self._n)
        ]
        return Usage(
            sum(usage.prompt_tokens for usage in prompts),
            sum(usage.completion_tokens for usage in prompts),
            sum(usage.cached_tokens for usage in prompts),
            sum(usage.reasoning_tokens for usage in prompts),
        )


def _shared_prompt(parts: Sequence[Usage]) -> Usage:
    return Usage(
        max(usage.prompt_tokens for usage in parts),
        sum(usage.completion_tokens for usage in parts),
        max(usage.cached_tokens for usage in parts),
        sum(usage.reasoning_tokens for usage in parts),
    )
