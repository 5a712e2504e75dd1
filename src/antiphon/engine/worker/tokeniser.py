"""Tokenises on threads, so that no request waits for another's long text.

The prompts of a request are tokenised in portions of at most ``PORTION`` characters, and the portions of all requests
alternate on one thread. A single prompt that is longer cannot be cut without changing its tokens. It runs on a second
thread, or on a third above ``LONG`` characters, where it only delays prompts of its own size.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TypeVar

from antiphon.allocator import return_free_memory
from antiphon.engine.ipc.messages import Prompt
from antiphon.engine.model.vocabulary import Vocabulary, num_characters

PORTION = 64 * 1024
"""Characters: about a twentieth of a second's work."""
LONG = 1024 * 1024
"""Characters."""

T = TypeVar("T")
V = TypeVar("V")


class Tokeniser:
    """Belongs to one event loop. Cancelling a call drops the portions that have not begun."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._lanes = [ThreadPoolExecutor(1, thread_name_prefix="tokenise") for _ in range(3)]

    async def encode(self, prompts: Sequence[Prompt], *, whole: bool = False) -> list[list[int]]:
        """Return the ids of each prompt, as ``Vocabulary.encode`` does.

        Raises:
            TokenIdError: an id outside the vocabulary.
        """

        def encode(portion: Sequence[Prompt]) -> list[list[int]]:
            return [self._vocabulary.encode(prompt, whole=whole) for prompt in portion]

        def encode_long(portion: Sequence[Prompt]) -> list[list[int]]:
            try:
                return encode(portion)
            finally:
                return_free_memory()  # of one string a word, with some of llama.cpp's builds

        ids: list[list[int]] = []
        for portion, size in _portions(prompts):
            ids += await run_on(self._lane(size), encode if size <= PORTION else encode_long, portion)
        return ids

    async def run(self, work: Callable[[], T]) -> T:
        """Run short work on the thread of the short prompts."""
        return await run_on(self._lanes[0], lambda _: work(), None)

    def _lane(self, size: int) -> Executor:
        return self._lanes[(size > PORTION) + (size > LONG)]


async def run_on(executor: Executor, work: Callable[[V], T], value: V) -> T:
    """Run ``work(value)`` on a thread and return its result; cancelling drops it if it has not begun."""
    return await asyncio.get_running_loop().run_in_executor(executor, work, value)


def _portions(prompts: Sequence[Prompt]) -> Iterator[tuple[list[Prompt], int]]:
    """Yield consecutive prompts with their size in characters: as many as fit a portion, at least one."""
    portion: list[Prompt] = []
    size = 0
    for prompt in prompts:
        more = num_characters(prompt)
        if portion and size + more > PORTION:
            yield portion, size
            portion, size = [], 0
        portion.append(prompt)
        size += more
    if portion:
        yield portion, size
