"""A model in a few lines, a context that checks how it is used, and what an engine without any cleverness would answer."""

import codecs
import random
from collections.abc import Callable
from functools import cache
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from antiphon.engine.ipc.messages import Generate, Text
from antiphon.engine.model.base import NoCells
from antiphon.engine.model.llama import Aborted, Batch
from antiphon.engine.model.logits import Logits, log_probabilities
from antiphon.engine.model.vocabulary import Vocabulary, VocabularyEntry
from antiphon.engine.sampling.sampler import Sampler

PIECES = ("", "<x>", "a", "b", "ab", " ", "c", "\n\n", "日", "!")
END, CONTROL = 0, 1
DATA = [text.encode() for text in PIECES] + ["日".encode()[:1], "日".encode()[1:]]


def vocabulary() -> Vocabulary:
    """Return twelve tokens: the end, a control token, words, and a character in two halves."""
    pieces = [
        VocabularyEntry(data, is_control=token in {END, CONTROL}, is_end=token == END)
        for token, data in enumerate(DATA)
    ]
    return Vocabulary(lambda *_: [], pieces, {}, adds_bos=False)


LogitsAfter = Callable[[list[int]], Logits]
"""What a model thinks of the next token."""


def logits_after(tokens: list[int]) -> Logits:
    """Return what the model thinks of the next token: of the last two tokens' making, so that texts come round again."""
    return _logits(tuple(tokens[-2:]))


@cache
def _logits(tokens: tuple[int, ...]) -> Logits:
    return np.random.default_rng(tokens).normal(scale=2, size=len(DATA)).astype(np.float32)


class _Cell(msgspec.Struct, frozen=True):
    token: int
    chain: int
    """Of all tokens that it was computed after."""


class PlainContext:
    """Cells as llama.cpp keeps them. Every decode checks that each row follows its own sequence's tokens."""

    def __init__(self, cells: int, batch_size: int, seed: int) -> None:
        self.cells = cells
        self.batch = Batch(batch_size)
        self.during: Callable[[], None] = lambda: None
        """What other threads do while a decode runs."""
        self.num_aborted = 0
        self._random = random.Random(seed)
        self._slots: dict[int, dict[int, _Cell]] = {}
        self._is_aborting = False
        self._rows: list[Logits] = []

    @property
    def num_used(self) -> int:
        """Cells that some slot holds."""
        return len({id(cell) for positions in self._slots.values() for cell in positions.values()})

    def decode(self) -> None:
        """Compute the batch, or some of it."""
        self.during()
        size = self.batch.size
        end = self._random.randint(0, size) if self._is_aborting else size
        self._rows = []
        batch: Any = self.batch
        for row in range(end):
            slot, position, token = (int(array[row]) for array in (batch._sequences, batch._positions, batch._tokens))
            cells = self._slots.setdefault(slot, {})
            cells[position] = _Cell(token, self._chain(cells, position))
            if batch._outputs[row]:
                self._rows.append(logits_after([cells[at].token for at in range(position + 1)]))
        assert self.num_used <= self.cells
        if self._is_aborting:
            self.num_aborted += 1
            raise Aborted

    @staticmethod
    def _chain(cells: dict[int, _Cell], position: int) -> int:
        assert len(cells) == position, "a row follows the last cell of its slot"
        chain = 0
        for at in range(position):
            assert cells[at].chain == chain, "cells follow those that they were computed after"
            chain = hash((chain, cells[at].token))
        return chain

    def abort(self, requested: bool) -> None:
        """End a decode early."""
        self._is_aborting = requested

    def logits(self) -> NDArray[np.float32]:
        """Return a row for each output of the last decode."""
        return np.stack(self._rows)

    def copy(self, source: int, target: int, start: int, end: int) -> None:
        """Share cells."""
        given, taken = self._slots.get(source, {}), self._slots.setdefault(target, {})
        for position in range(start, end):
            assert position not in taken
            taken[position] = given[position]

    def remove(self, slot: int, start: int = 0) -> bool:
        """Drop cells."""
        self._slots[slot] = {at: cell for at, cell in self._slots.get(slot, {}).items() if at < start}
        return True

    def clear(self) -> None:
        """Drop all cells."""
        self._slots.clear()


class SmallContext(PlainContext):
    """Cells of a model that agrees with the plain one two times in three, and says so where it lacks cells."""

    def decode(self) -> None:
        """Compute the batch, or refuse it."""
        if self.num_used + self.batch.size > self.cells:
            raise NoCells
        super().decode()
        self._rows = [row if row.argmax() % 3 else np.roll(row, 1) for row in self._rows]


class Alternation:
    """A grammar: no token comes twice in a row, ``b`` and a blank follow ``a``, and ``size`` tokens complete it."""

    def __init__(self, size: int, tokens: list[int] | None = None) -> None:
        self._size = size
        self._tokens = [] if tokens is None else tokens

    def copy(self) -> "Alternation":
        """Return an independent copy."""
        return Alternation(self._size, list(self._tokens))

    def mask(self) -> NDArray[np.bool_]:
        """Return which tokens may come next."""
        allowed = np.ones(len(DATA), np.bool_)
        allowed[END] = len(self._tokens) > self._size // 2
        if self._tokens:
            allowed[self._tokens[-1]] = False
        if forced := self._forced():
            allowed[:] = False
            allowed[forced[0]] = True
        return allowed

    def accept(self, token: int) -> None:
        """Go on."""
        assert self.mask()[token]
        self._tokens.append(token)

    def take_forced(self) -> list[int]:
        """Go on by what is the only way."""
        forced = self._forced()
        self._tokens += forced
        return forced

    @property
    def is_complete(self) -> bool:
        """Whether it is over."""
        return len(self._tokens) >= self._size

    def _forced(self) -> list[int]:
        last = self._tokens[-2:]
        if last[-1:] == [2]:
            return [3, 5]
        return [5] if last == [2, 3] else []


class Answered(msgspec.Struct):
    """What became of one choice."""

    text: str = ""
    reason: str = ""
    stop_string: str | None = None
    num_tokens: int = 0
    tokens: list[tuple[int, float]] = msgspec.field(default_factory=list)


def expected(
    request: Generate,
    prompt: list[int],
    index: int,
    constraint: Alternation | None,
    model: LogitsAfter = logits_after,
) -> Answered:
    """Return the text of a choice: token by token, each after a look at all before it."""
    answered, tokens, data = Answered(), list(prompt), b""
    sampler = Sampler(request.sampling, index)
    forced: list[int] = []
    while True:
        if request.max_tokens == answered.num_tokens:
            answered.reason = "length"
            break
        row = model(tokens)
        if forced:
            token = forced.pop(0)
        else:
            token = sampler.draw(row, constraint and constraint.mask())
            if constraint is not None and token != END:
                constraint.accept(token)
                forced = constraint.take_forced() if request.logprobs is None else []
        if token == END:
            answered.reason = "stop"
            break
        sampler.accept(token)
        tokens.append(token)
        answered.num_tokens += 1
        answered.tokens.append((token, float(log_probabilities(row)[token])))
        data += b"" if token == CONTROL and not request.special else DATA[token]
        found = [(at, -len(stop), stop) for stop in request.stop if (at := _whole(data).find(stop)) >= 0]
        if found:
            at, _, answered.stop_string = min(found)
            answered.text, answered.reason = _whole(data)[:at], "stop"
            return answered
        if constraint is not None and constraint.is_complete and not forced:
            answered.reason = "stop"
            break
    answered.text = data.decode("utf-8", "replace")
    return answered


def _whole(data: bytes) -> str:
    """Return the text that no further byte can change."""
    return codecs.getincrementaldecoder("utf-8")(errors="replace").decode(data)


def expected_logprobs(tokens: list[int], start: int, model: LogitsAfter = logits_after) -> list[float]:
    """Return the log-probability of each token from position ``start`` on, after those before it."""
    return [float(log_probabilities(model(tokens[:at]))[tokens[at]]) for at in range(start, len(tokens))]


TEXT = (Text(""),)
"""The prompt in a message; the tasks receive its tokens separately."""
