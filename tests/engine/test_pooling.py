"""The embedding loop on a model in a few lines: every text gets its own vector, in its turn."""

import queue
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from antiphon.engine.ipc.messages import Answer, Embed, Embedded, Failed, Priority
from antiphon.engine.model.llama import Batch
from antiphon.engine.steps.batch_loop import CancelTask
from antiphon.engine.steps.packing import pack_tiles
from antiphon.engine.steps.pooling import PoolingLoop, PoolingTask

Command = PoolingTask | CancelTask


class _OverError(Exception):
    """Nothing more happens."""


class _Context:
    """Turns a text into a direction of its first and last token and its length."""

    def __init__(self, capacity: int) -> None:
        self.batch = Batch(capacity)
        self._rows: list[list[int]] = []

    def decode(self) -> None:
        batch: Any = self.batch
        self._rows = []
        for sequence, position, token in zip(batch._sequences, batch._positions, batch._tokens, strict=True):
            if len(self._rows) == self.batch.size:
                break
            self._rows.append([int(sequence), int(position), int(token)])

    def embeddings(self, count: int) -> NDArray[np.float32]:
        texts = [[token for number, _, token in self._rows if number == sequence] for sequence in range(count)]
        return np.array([_direction(text) for text in texts], np.float32)

    def clear(self) -> None:
        """Keep nothing."""


def _direction(text: list[int]) -> list[float]:
    return [text[0], text[-1], len(text)]


class _Inbox(queue.SimpleQueue[Command]):
    def __init__(self, more: Callable[[], list[Command] | None]) -> None:
        self._more = more
        self._now: list[Command] | None = None

    def get(self, block: bool = True, timeout: float | None = None) -> Command:
        while self._now is None or (block and not self._now):
            self._now = self._more()
            if self._now is None:
                raise _OverError
        if not self._now:
            self._now = None
            raise queue.Empty
        return self._now.pop(0)


def _run(more: Callable[[], list[Command] | None], answers: list[tuple[int, Answer]]) -> PoolingLoop:
    """Run a loop with what ``more`` says before each step, until it says None, and return it."""
    context: Any = _Context(256)
    loop = PoolingLoop(context, answers.extend, packing=partial(pack_tiles, tile=64), max_sequences=128)
    loop.inbox = _Inbox(more)
    with pytest.raises(_OverError):
        loop.run()
    return loop


def _task(number: int, texts: list[list[int]], priority: Priority = "interactive") -> PoolingTask:
    return PoolingTask((0, number), Embed(number, (), priority), texts)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32))
def test_every_text_has_its_own_vector(seed: int) -> None:
    """Whatever arrives and is cancelled, each request that stays is answered once, in the order of its texts; all are counted."""
    generator = random.Random(seed)
    asked: dict[int, list[list[int]]] = {}
    left: set[int] = set()
    answers: list[tuple[int, Answer]] = []

    def more() -> list[Command] | None:
        open_ = asked.keys() - left - {answer.id for _, answer in answers}
        if len(asked) > 20:
            return [] if open_ else None
        commands: list[Command] = []
        for _ in range(generator.choice([0, 1, 3])):
            number = len(asked)
            asked[number] = [
                [generator.randint(1, 99) for _ in range(generator.choice([1, 14, 63, 64, 65, 250]))]
                for _ in range(generator.choice([1, 2, 30]))
            ]
            commands.append(_task(number, asked[number], generator.choice(["interactive", "batch"])))
        if open_ and generator.random() < 0.2:
            number = generator.choice(sorted(open_))
            left.add(number)
            commands.append(CancelTask(0, number))
        return commands

    said = _run(more, answers).statistics
    assert (said.requests, said.cancelled) == (len(asked), len(left))
    done = [answer for _, answer in answers if isinstance(answer, Embedded)]
    assert sorted(answer.id for answer in done if answer.id not in left) == sorted(asked.keys() - left)
    for answer in done:
        for vector, length, text in zip(answer.vectors, answer.lengths, asked[answer.id], strict=True):
            wanted = np.array(_direction(text)) / np.linalg.norm(_direction(text))
            assert np.frombuffer(vector, "<f4") == pytest.approx(wanted, abs=1e-6)
            assert length == len(text)


def test_a_batch_waits_for_interactive_requests() -> None:
    """However long it has waited; its own texts go on in their turn."""
    answers: list[tuple[int, Answer]] = []
    batch = [_task(number, [[7] * 14] * 200, "batch") for number in range(2)]
    more = iter([batch, [], [_task(2, [[8] * 14] * 100)], *[[] for _ in range(60)]])
    _run(lambda: next(more, None), answers)
    assert next(answer.id for _, answer in answers) == 2
    assert len(answers) == 3


def test_a_long_request_goes_on_beside_short_ones_without_end() -> None:
    """A steady stream of requests for one text does not keep a long request from its end."""
    answers: list[tuple[int, Answer]] = []
    long = _task(0, [[7] * 14] * 50)
    asked = 0

    def more() -> list[Command] | None:
        nonlocal asked
        if any(answer.id == 0 for _, answer in answers) or len(answers) > 20000:
            return None
        first, asked = asked, 100 + len(answers)
        new: list[Command] = [_task(number + 1, [[8] * 14]) for number in range(first, asked)]
        return [long, *new] if not first else new

    _run(more, answers)
    assert any(answer.id == 0 for _, answer in answers)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_an_output_without_a_direction_fails_its_request_alone(value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A vector that is zero or not a number is not sent; other requests of the same batch have theirs."""
    monkeypatch.setitem(globals(), "_direction", lambda text: [value if 13 in text else text[0], 0.0, 0.0])
    answers: list[tuple[int, Answer]] = []
    commands: list[list[Command]] = [[_task(0, [[5], [13], [6]]), _task(1, [[7]]), _task(2, [[8]] * 300)]]

    def more() -> list[Command] | None:
        if commands:
            return commands.pop()
        return [] if len(answers) < 3 else None

    _run(more, answers)
    by_id = {answer.id: answer for _, answer in answers}
    failed = by_id[0]
    assert isinstance(failed, Failed)
    assert failed.kind == "internal"
    assert isinstance(by_id[1], Embedded)
    assert isinstance(by_id[2], Embedded)
    assert len(answers) == 3
