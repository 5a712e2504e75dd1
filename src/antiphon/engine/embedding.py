"""The embedding loop: packs inputs of all requests, sorted by length, into batches of one sequence each."""

import queue
import time
from collections.abc import Callable

import numpy as np

from antiphon.engine.llama import Aborted, Context
from antiphon.engine.loop import CancelTask, Emit
from antiphon.engine.messages import Embed, Embedded
from antiphon.engine.statistics import STEP_BOUNDS_S, EngineStatistics, HistogramCollector, RateCollector
from antiphon.engine.tasks import Key

_PACKED_TOKENS = 256
"""Where a batch is large enough for the matrix kernels; docs/engine.md has the measurement."""


class EmbeddingTask:
    """An ``Embed`` request and what is known of its vectors."""

    def __init__(self, key: Key, request: Embed, prompts: list[list[int]]) -> None:
        self.key = key
        self.prompts = prompts
        self.num_missing = len(prompts)
        self.vectors = [b""] * len(prompts)
        self.request = request

    def answer(self) -> Embedded:
        """Return the complete answer."""
        return Embedded(self.request.id, tuple(self.vectors), tuple(map(len, self.prompts)))


class EmbeddingLoop:
    """Runs embedding requests over one context. ``run`` belongs to one thread; ``inbox`` may be filled from any."""

    def __init__(self, context: Context, *, max_sequences: int, emit: Emit) -> None:
        self.inbox: queue.SimpleQueue[EmbeddingTask | CancelTask] = queue.SimpleQueue()
        self.step_started: float | None = None
        self.statistics = EngineStatistics()
        self._rate = RateCollector()
        self._step_s = HistogramCollector(STEP_BOUNDS_S)
        self._num_requests = self._num_steps = self._num_tokens = 0
        self._context = context
        self._max_sequences = max_sequences
        self._emit = emit
        self._inputs: list[tuple[EmbeddingTask, int]] = []
        self._tasks: dict[Key, EmbeddingTask] = {}

    def run(self) -> None:
        """Work for as long as the process lives."""
        while True:
            self._receive()
            packed = self._pack()
            if packed and self._compute(packed):
                self._deliver(packed)
            self._measure()

    def cancel(self, command: CancelTask) -> None:
        """Cancel from any thread."""
        self.inbox.put(command)

    def _receive(self) -> None:
        wait = not self._inputs
        while True:
            try:
                command = self.inbox.get(block=wait)
            except queue.Empty:
                return
            wait = False
            match command:
                case CancelTask(connection, request):
                    self._cancel(lambda key, c=connection, r=request: key[0] == c and r in (None, key[1]))
                case EmbeddingTask():
                    self._num_requests += 1
                    self._tasks[command.key] = command
                    self._inputs += [(command, index) for index in range(len(command.prompts))]
                    self._inputs.sort(key=lambda entry: len(entry[0].prompts[entry[1]]))

    def _cancel(self, is_meant: Callable[[Key], bool]) -> None:
        for key in [key for key in self._tasks if is_meant(key)]:
            del self._tasks[key]
        self._inputs = [entry for entry in self._inputs if entry[0].key in self._tasks]

    def _pack(self) -> list[tuple[EmbeddingTask, int]]:
        """Take the shortest inputs that fit one batch of the size that is computed fastest."""
        shortest = len(self._inputs[0][0].prompts[self._inputs[0][1]]) if self._inputs else 0
        room = min(self._context.batch.capacity, max(_PACKED_TOKENS, shortest))
        packed: list[tuple[EmbeddingTask, int]] = []
        for entry in self._inputs[: self._max_sequences]:
            room -= len(entry[0].prompts[entry[1]])
            if room < 0:
                break
            packed.append(entry)
        del self._inputs[: len(packed)]
        return packed

    def _compute(self, packed: list[tuple[EmbeddingTask, int]]) -> bool:
        batch = self._context.batch
        batch.clear()
        self._context.clear()
        for sequence, (task, index) in enumerate(packed):
            batch.add(sequence, 0, task.prompts[index], len(task.prompts[index]))
        started = self.step_started = time.monotonic()
        try:
            self._context.decode()
        except Aborted:
            return False
        finally:
            self.step_started = None
        self._num_steps += 1
        self._num_tokens += batch.size
        self._step_s.observe(time.monotonic() - started)
        self._rate.observe(batch.size, time.monotonic() - started)
        return True

    def _measure(self) -> None:
        self.statistics = EngineStatistics(
            running=len(self._tasks),
            waiting=len(self._inputs),
            requests=self._num_requests,
            prompt_tokens=self._num_tokens,
            prefill_tokens=self._num_tokens,
            prefill_tokens_per_s=self._rate.snapshot(),
            steps=self._num_steps,
            step_s=self._step_s.snapshot(),
        )

    def _deliver(self, packed: list[tuple[EmbeddingTask, int]]) -> None:
        done: list[EmbeddingTask] = []
        vectors = self._context.embeddings(len(packed))
        lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
        units = (vectors / np.maximum(lengths, 1e-12)[:, None]).astype("<f4")
        for unit, (task, index) in zip(units, packed, strict=True):
            task.vectors[index] = unit.tobytes()
            task.num_missing -= 1
            if not task.num_missing:
                done.append(task)
        self._emit([(task.key[0], task.answer()) for task in done])
        for task in done:
            del self._tasks[task.key]
