"""The step loop of continuous batching: takes requests from its inbox, plans a step, decodes it, sends the answers."""

import time
from collections.abc import Iterator
from typing import Literal

from antiphon.engine.ipc.messages import Answer, Failed
from antiphon.engine.model.base import Aborted, ModelContext
from antiphon.engine.model.logits import BrokenLogits, Logits
from antiphon.engine.model.thread_throttle import ThreadThrottle
from antiphon.engine.sampling.constraint import GrammarError
from antiphon.engine.scheduling.scheduler import Scheduler
from antiphon.engine.scheduling.sequence import Copy, Sequence, Slice, Step
from antiphon.engine.statistics import HistogramCollector
from antiphon.engine.steps.batch_loop import BatchLoop, CancelTask, Emit
from antiphon.engine.steps.drafting import DraftModel
from antiphon.engine.steps.meter import StepMeter
from antiphon.engine.steps.tasks import IdlePrefill, RequestKey, Task

Command = Task | CancelTask


class StepLoop(BatchLoop[ModelContext, Task]):
    """The loop of models that generate.

    ``mask_s`` collects how long grammar masks take. ``can_roll_back`` says whether the model's memory can drop the last
    tokens of a sequence; only then is a step aborted. ``draft_model`` proposes what running texts may say next.
    """

    def __init__(
        self,
        context: ModelContext,
        scheduler: Scheduler,
        emit: Emit,
        *,
        mask_s: HistogramCollector,
        can_roll_back: bool = True,
        throttle: ThreadThrottle | None = None,
        draft_model: DraftModel | None = None,
        idle_work: Iterator[None] | None = None,
    ) -> None:
        super().__init__(context, emit, throttle=throttle, idle_work=idle_work)
        self._meter = StepMeter(scheduler, context.cells, mask_s)
        self.statistics = self._meter.snapshot()
        self._scheduler = scheduler
        self._can_roll_back = can_roll_back
        self._draft_model = draft_model
        self._tasks: dict[RequestKey, Task] = {}
        self._task_of: dict[int, Task] = {}
        self._answers: list[tuple[int, Answer]] = []
        self._in_step: set[RequestKey] = set()
        """The requests that the running step computes for. Each step has a set of its own; only ``cancel`` removes keys."""
        self._yields = False
        """Whether the running step makes way for an interactive request: it is a batch's, or only fills the prefix cache."""

    @property
    def shares_prefixes(self) -> bool:
        """Whether requests use the prefixes that others have computed."""
        return self._scheduler.cache.shares

    def run(self) -> None:
        """Work for as long as the process lives."""
        while True:
            if not self._tasks:
                self._work_idly()
            self._receive()
            self._expire()
            self._draft()
            step = self._scheduler.plan()
            self._change(step)
            if step.slices:
                self._compute(step)
            if self._answers:
                self._emit(self._answers)
                self._answers = []
            self.statistics = self._meter.snapshot()

    def submit(self, task: Task) -> None:
        """Start a task, from one other thread. A step that makes way for it is aborted."""
        self.inbox.put(task)
        if self._yields and not task.yields and self._can_roll_back:
            self._context.abort(True)

    def cancel(self, command: CancelTask) -> None:
        """Cancel, from one other thread. A step whose requests are all cancelled is aborted within milliseconds."""
        self.inbox.put(command)
        in_step = self._in_step
        leaving = {key for key in in_step if command.means(key)}
        in_step -= leaving
        if leaving and not in_step and self._can_roll_back:
            self._context.abort(True)

    def _receive(self) -> None:
        """Take all commands, waiting for one when there is nothing to do."""
        wait = not self._tasks
        if wait and not self._scheduler.cells_used:
            self._context.clear()  # cells are then filled in the order of a new context, and sums round alike
        for command in self._commands(wait=wait):
            match command:
                case CancelTask():
                    self._cancel(command)
                case Task():
                    self._begin(command)

    def _begin(self, task: Task) -> None:
        if isinstance(task, IdlePrefill):
            if self._tasks:
                self._answers.append((task.key[0], task.interrupted()))
                return
        else:
            self._meter.num_requests += 1
            for idle in [other for other in self._tasks.values() if isinstance(other, IdlePrefill)]:
                self._answers.append((idle.key[0], idle.interrupted()))
                self._drop(idle)
        self._tasks[task.key] = task
        for sequence in task.sequences:
            self._task_of[id(sequence)] = task
            self._scheduler.add(sequence)

    def _cancel(self, command: CancelTask) -> None:
        for key in [key for key in self._tasks if command.means(key)]:
            self._meter.num_cancelled += not isinstance(self._tasks[key], IdlePrefill)
            self._drop(self._tasks[key])
        self._answers = [(to, answer) for to, answer in self._answers if not command.means((to, answer.id))]

    def _drop(self, task: Task) -> None:
        for sequence in task.sequences:
            self._release(sequence)
        self._end(task)

    def _end(self, task: Task) -> None:
        del self._tasks[task.key]
        self._meter.ended(*task.key)

    def _release(self, sequence: Sequence) -> None:
        del self._task_of[id(sequence)]
        self._scheduler.remove(sequence)

    def _expire(self) -> None:
        now = time.monotonic()
        for task in [task for task in self._tasks.values() if task.deadline is not None and task.deadline < now]:
            self._fail(task, "deadline", "the request's deadline passed before it was complete")

    def _fail(self, task: Task, kind: Literal["deadline", "grammar", "internal"], message: str) -> None:
        self._answers.append((task.key[0], Failed(task.key[1], kind, message)))
        self._drop(task)

    def _draft(self) -> None:
        if self._draft_model is not None:
            with self._native_call():
                self._draft_model.propose(self._scheduler.drafted())

    def _change(self, step: Step) -> None:
        for change in step.changes:
            if isinstance(change, Copy):
                self._context.copy(change.source, change.target, change.start, change.end)
            else:
                self._context.remove(change.slot, change.start)

    def _compute(self, step: Step) -> None:
        batch = self._context.batch
        batch.clear()
        for piece in step.slices:
            tokens = [*piece.sequence.tokens[piece.start : piece.end], *piece.draft]
            slot = piece.sequence.held.slot
            batch.add(slot, piece.start, tokens, piece.num_outputs, piece.padding, is_prompt=step.is_prefill)
        now = time.monotonic()
        tasks = [self._task_of[id(piece.sequence)] for piece in step.slices]
        for task in tasks:
            if task.begun is None:
                task.begun = now
        self._in_step = {task.key for task in tasks}
        # A step is either for tasks that yield or for others.
        self._yields = tasks[0].yields
        try:
            seconds = self._decode()
        except Aborted:
            self._roll_back(step)
            return
        finally:
            self._in_step = set()
            self._yields = False
            self._context.abort(False)
        self._meter.step(step, seconds, self._use(step))

    def _roll_back(self, step: Step) -> None:
        for piece in step.slices:
            self._context.remove(piece.sequence.held.slot, piece.start)

    def _use(self, step: Step) -> int:
        """Give each task its rows of logits. Return how many draft tokens were accepted."""
        self._scheduler.computed(step)
        num_accepted = 0
        logits = self._context.logits() if self._context.batch.num_outputs else None
        row = 0
        for piece in step.slices:
            if piece.num_outputs and logits is not None:
                self._hand_over(piece, logits[row : row + piece.num_outputs])
                row += piece.num_outputs
            right, removal = self._scheduler.settle(piece)
            num_accepted += right
            if self._draft_model is not None and self._draft_model.learn(piece.sequence, piece.draft, right):
                self._meter.drafted_by_model(len(piece.draft), right)
            if removal is not None:
                self._context.remove(removal.slot, removal.start)
        return num_accepted

    def _hand_over(self, piece: Slice, rows: Logits) -> None:
        task = self._task_of.get(id(piece.sequence))
        if task is None:  # another choice of the same request failed in this step
            return
        before = list(task.sequences)
        try:
            for answer in task.take(piece, rows):
                self._answers.append((task.key[0], answer))
                self._meter.answer(task.key[0], answer, task.arrived)
        except BrokenLogits as error:
            self._fail(task, "internal", str(error))
            return
        except GrammarError as error:
            self._fail(task, "grammar", str(error))
            return
        for sequence in before:
            if sequence not in task.sequences:
                self._release(sequence)
        if not task.sequences:
            self._end(task)
