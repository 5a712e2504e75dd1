"""The loop of models that pool a text's outputs: packs inputs of all requests into batches, one sequence each, round-robin across requests.

Inputs of a client's batch wait while there are interactive ones.
"""

from collections.abc import Callable, Iterator, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from antiphon.engine.ipc.messages import Embed, Embedded, Failed, Rank, Ranked
from antiphon.engine.model.base import PoolingContext
from antiphon.engine.model.thread_throttle import ThreadThrottle
from antiphon.engine.statistics import STEP_BOUNDS_S, EngineStatistics, HistogramCollector, RateCollector
from antiphon.engine.steps.batch_loop import BatchLoop, CancelTask, Emit
from antiphon.engine.steps.packing import WINDOW, Packing
from antiphon.engine.steps.tasks import RequestKey

_PACKED_TOKENS = 256
"""Where a batch is large enough for the matrix kernels; docs/engine/measurements.md has the measurement."""


class PoolingTask:
    """An ``Embed`` or ``Rank`` request and the pooled outputs of its inputs so far, as ``Read`` returns them."""

    def __init__(self, key: RequestKey, request: Embed | Rank, prompts: list[list[int]]) -> None:
        self.key = key
        self.prompts = prompts
        self.num_missing = len(prompts)
        self.outputs: list[bytes | float] = [b""] * len(prompts)
        self.request = request
        self.is_batch = request.priority == "batch"

    def answer(self) -> Embedded | Ranked:
        """Return the complete answer."""
        lengths = tuple(map(len, self.prompts))
        if isinstance(self.request, Embed):
            return Embedded(self.request.id, tuple(each for each in self.outputs if isinstance(each, bytes)), lengths)
        return Ranked(self.request.id, tuple(each for each in self.outputs if isinstance(each, float)), lengths)


Read = Callable[[NDArray[np.float32]], Sequence[bytes | float | None]]
"""Turns rows of pooled outputs, of shape (inputs, numbers), into what the answer holds; None for a row that is broken."""


def unit_vectors(rows: NDArray[np.float32]) -> Sequence[bytes | None]:
    """Return each row as a little-endian float32 buffer of unit length."""
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
    with np.errstate(invalid="ignore"):  # broken outputs are sorted out below
        units = (rows / np.maximum(lengths, 1e-12)[:, None]).astype("<f4")
    return [unit.tobytes() if 0 < length < np.inf else None for unit, length in zip(units, lengths, strict=True)]


def first_probabilities(rows: NDArray[np.float32]) -> Sequence[float | None]:
    """Return the probability of the first class; a lone output is its logit, several are probabilities already."""
    given = rows[:, 0].astype(np.float64)
    if rows.shape[1] == 1:
        with np.errstate(over="ignore"):
            given = 1 / (1 + np.exp(-given))
    return [float(each) if np.isfinite(raw) else None for each, raw in zip(given, rows[:, 0], strict=True)]


class _Input(msgspec.Struct, frozen=True):
    """One text of a request.

    Inputs are scheduled round-robin: ``turn`` is the round in which it is due, so neither a large request nor a steady
    stream of short ones starves the other.
    """

    turn: int
    task: PoolingTask
    index: int

    @property
    def tokens(self) -> list[int]:
        """Return its token ids."""
        return self.task.prompts[self.index]


class PoolingLoop(BatchLoop[PoolingContext, PoolingTask]):
    """The loop of models that embed or rank."""

    def __init__(
        self,
        context: PoolingContext,
        emit: Emit,
        *,
        read: Read = unit_vectors,
        packing: Packing,
        max_sequences: int,
        throttle: ThreadThrottle | None = None,
        idle_work: Iterator[None] | None = None,
    ) -> None:
        super().__init__(context, emit, throttle=throttle, idle_work=idle_work)
        self._rate = RateCollector()
        self._step_s = HistogramCollector(STEP_BOUNDS_S)
        self._num_requests = self._num_cancelled = self._num_steps = self._num_tokens = 0
        self._packing = packing
        self._max_sequences = max_sequences
        self._read = read
        self._inputs: list[_Input] = []
        self._tasks: dict[RequestKey, PoolingTask] = {}

    def run(self) -> None:
        """Work for as long as the process lives."""
        while True:
            if not self._inputs:
                self._work_idly()
            self._receive()
            if self._inputs:
                self._step()
            self._measure()

    def cancel(self, command: CancelTask) -> None:
        """Cancel from any thread."""
        self.inbox.put(command)

    def _receive(self) -> None:
        for command in self._commands(wait=not self._inputs):
            match command:
                case CancelTask():
                    self._num_cancelled += self._drop(command.means)
                case PoolingTask():
                    self._begin(command)

    def _begin(self, task: PoolingTask) -> None:
        self._num_requests += 1
        self._tasks[task.key] = task
        alike = (waiting.turn + 1 for waiting in self._inputs if waiting.task.is_batch == task.is_batch)
        first = next(alike, 0)
        self._inputs += [_Input(first + index, task, index) for index in range(len(task.prompts))]
        self._inputs.sort(key=lambda waiting: (waiting.task.is_batch, waiting.turn))

    def _drop(self, is_meant: Callable[[RequestKey], bool]) -> int:
        """Forget requests, and return how many."""
        dropped = [key for key in self._tasks if is_meant(key)]
        for key in dropped:
            del self._tasks[key]
        self._inputs = [waiting for waiting in self._inputs if waiting.task.key in self._tasks]
        return len(dropped)

    def _step(self) -> None:
        packed = self._pack()
        duration_s = self._decode()
        num_tokens = sum(len(waiting.tokens) for waiting in packed)
        self._num_steps += 1
        self._num_tokens += num_tokens
        self._step_s.observe(duration_s)
        self._rate.observe(num_tokens, duration_s)
        self._deliver(packed)

    def _pack(self) -> list[_Input]:
        """Fill the batch; return the inputs of its sequences 0, 1, ... Padding has sequences of its own behind them."""
        batch = self._context.batch
        is_batch = self._inputs[0].task.is_batch
        places = self._packing(
            [len(waiting.tokens) for waiting in self._inputs[:WINDOW] if waiting.task.is_batch == is_batch],
            room=min(_PACKED_TOKENS, batch.capacity),
            capacity=batch.capacity,
            most=self._max_sequences,
        )
        packed = [self._inputs[place.index] for place in places]
        batch.clear()
        padding_sequence = len(packed)
        for sequence, (waiting, place) in enumerate(zip(packed, places, strict=True)):
            batch.add(sequence, 0, waiting.tokens, len(waiting.tokens))
            if place.padding:
                batch.add(padding_sequence, 0, waiting.tokens[:1] * place.padding, place.padding)
                padding_sequence += 1
        for place in sorted(places, key=lambda place: -place.index):
            del self._inputs[place.index]
        self._context.clear()
        return packed

    def _measure(self) -> None:
        self.statistics = EngineStatistics(
            running=len(self._tasks),
            waiting=len(self._inputs),
            requests=self._num_requests,
            cancelled=self._num_cancelled,
            prompt_tokens=self._num_tokens,
            prefill_tokens=self._num_tokens,
            prefill_tokens_per_s=self._rate.snapshot(),
            steps=self._num_steps,
            step_s=self._step_s.snapshot(),
        )

    def _deliver(self, packed: list[_Input]) -> None:
        done: list[PoolingTask] = []
        broken: dict[RequestKey, PoolingTask] = {}
        read = self._read(self._context.embeddings(len(packed)))
        for output, waiting in zip(read, packed, strict=True):
            task = waiting.task
            if output is None:
                broken[task.key] = task
                continue
            task.outputs[waiting.index] = output
            task.num_missing -= 1
            if not task.num_missing:
                done.append(task)
        self._emit([(task.key[0], task.answer()) for task in done])
        for task in done:
            del self._tasks[task.key]
        if broken:
            message = "the model's output for an input is zero or not a number"
            self._emit([(key[0], Failed(key[1], "internal", message)) for key in broken])
            self._drop(lambda key: key in broken)
