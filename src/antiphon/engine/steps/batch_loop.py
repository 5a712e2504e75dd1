"""What the loops over a context have in common: an inbox, work for times without requests, and the clock of native calls."""

import queue
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Final, Generic, TypeVar

import msgspec

from antiphon.engine.ipc.messages import Answer
from antiphon.engine.model.base import AnyContext
from antiphon.engine.model.thread_throttle import ThreadThrottle
from antiphon.engine.statistics import EngineStatistics

_NOTHING: Final = object()
Emit = Callable[[list[tuple[int, Answer]]], None]
"""Sends (connection, answer) pairs; called from the loop's thread."""


class CancelTask(msgspec.Struct, frozen=True):
    """Stop one request, or with ``request`` None all of a connection's."""

    connection: int
    request: int | None = None

    def means(self, key: tuple[int, int]) -> bool:
        """Whether the request of this connection and id is to stop."""
        return key[0] == self.connection and self.request in {None, key[1]}


ContextT = TypeVar("ContextT", bound=AnyContext)
TaskT = TypeVar("TaskT")


class BatchLoop(ABC, Generic[ContextT, TaskT]):
    """Runs tasks over one context. ``run`` belongs to one thread; ``inbox`` may be filled from any.

    ``idle_work`` is done piece by piece while there are no requests. ``throttle`` gives way to busy neighbours.
    """

    def __init__(
        self,
        context: ContextT,
        emit: Emit,
        *,
        throttle: ThreadThrottle | None = None,
        idle_work: Iterator[None] | None = None,
    ) -> None:
        self.inbox: queue.SimpleQueue[TaskT | CancelTask] = queue.SimpleQueue()
        self.step_started: float | None = None
        """When the native call began that runs now, on the monotonic clock; None between two."""
        self.statistics = EngineStatistics()
        """The counts after the latest step."""
        self._context = context
        self._emit = emit
        self._throttle = throttle
        self._idle_work = iter(()) if idle_work is None else idle_work

    @abstractmethod
    def run(self) -> None:
        """Work for as long as the process lives."""

    @abstractmethod
    def cancel(self, command: CancelTask) -> None:
        """Stop one request, or all of a connection's; from any thread."""

    def _work_idly(self) -> None:
        """Go on with ``idle_work`` until a command comes or nothing is left of it."""
        while self.inbox.empty():
            with self._native_call():
                if next(self._idle_work, _NOTHING) is _NOTHING:
                    return

    def _commands(self, *, wait: bool) -> Iterator[TaskT | CancelTask]:
        """Take what is in the inbox; ``wait`` for the first command if there is none."""
        while True:
            try:
                command = self.inbox.get(block=wait)
            except queue.Empty:
                return
            wait = False
            yield command

    def _decode(self) -> float:
        """Compute the context's batch and return the seconds that it took. Raises what the context does."""
        started, started_cpu = time.monotonic(), time.process_time()
        with self._native_call():
            self._context.decode()
        seconds = time.monotonic() - started
        if self._throttle is not None:
            self._throttle.observe(seconds, time.process_time() - started_cpu, started + seconds)
        return seconds

    @contextmanager
    def _native_call(self) -> Generator[None]:
        """Let others see how long a call takes that may hang."""
        self.step_started = time.monotonic()
        try:
            yield
        finally:
            self.step_started = None
