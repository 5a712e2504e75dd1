"""Runs compilations in processes that may die, so that none can block or crash the server.

llguidance compiles within limits of its own, but not always: for ``/(..)*/ & /(...)*/ & ...`` it looks for a text that fits all
parts however long that takes, and a schema of a thousand ``patternProperties`` takes minutes. A thread that waits for it
could not be ended; a process can. Processes stay warm, so that a compilation costs a millisecond more than in this process.
"""

import atexit
import contextvars
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import msgspec

from antiphon.errors import AntiphonError

Kind = Literal["form", "terminal", "whole", "schema"]
Job = tuple[Kind, str]

QUICK_CPU_S = 0.3
"""Processor seconds in the first lane. What needs more starts again in the second, so that quick jobs never queue behind it."""
NUM_PROCESSES = 2
"""Processes in each lane."""
_COMMAND = (sys.executable, "-P", str(Path(__file__).with_name("trial_process.py")))


class TrialCancelledError(AntiphonError):
    """Nobody waits for this compilation any more."""


class Trial(msgspec.Struct, frozen=True):
    """What came out: the problem of each grammar up to the first that has one, and how a process that died came to it.

    ``problems`` holds "" for each grammar without a problem. With ``death``, the grammar after them is at fault. ``cpu_s`` is the
    processor time of those that came to an end.
    """

    problems: tuple[str, ...]
    cpu_s: float
    death: Literal["time", "crash"] | None = None


class Cancellation:
    """Ends the compilations of one request, running and to come, when its client leaves."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._processes: list[subprocess.Popen[str]] = []
        self.is_cancelled = False

    @contextmanager
    def as_current(self) -> Generator[None]:
        """Apply to every compilation that is started in this context, be it in a thread."""
        token = _CURRENT.set(self)
        try:
            yield
        finally:
            _CURRENT.reset(token)

    def cancel(self) -> None:
        """Kill the compilation that is running, and refuse those to come."""
        with self._lock:
            self.is_cancelled = True
            for process in self._processes:
                process.kill()
        for lane in _LANES:
            lane.wake()

    @contextmanager
    def of(self, process: "subprocess.Popen[str]") -> Generator[None]:
        """Kill ``process`` if this is cancelled within the block, which then raises ``TrialCancelledError``."""
        with self._lock:
            self.check()
            self._processes.append(process)
        try:
            yield
        finally:
            with self._lock:
                self._processes.remove(process)
        self.check()

    def check(self) -> None:
        if self.is_cancelled:
            raise TrialCancelledError("The request was cancelled.")


_CURRENT: contextvars.ContextVar[Cancellation | None] = contextvars.ContextVar("cancellation", default=None)


class _Lane:
    """Some processes, each for one job at a time."""

    def __init__(self) -> None:
        self._idle: list[subprocess.Popen[str]] = []
        self._num_busy = 0
        self._changed = threading.Condition()

    def run(self, jobs: Sequence[Job], cpu_s: float) -> Trial:
        cancellation = _CURRENT.get() or Cancellation()
        process = self._take(cancellation)
        is_reusable = False
        try:
            with cancellation.of(process):
                trial = _ask(process, jobs, cpu_s)
                is_reusable = trial.death is None
        finally:
            self._give_back(process if is_reusable and not cancellation.is_cancelled else None)
            if not is_reusable or cancellation.is_cancelled:
                _end(process)
        return trial

    def wake(self) -> None:
        """Let those who wait for a process look whether they are cancelled."""
        with self._changed:
            self._changed.notify_all()

    def warm_up(self) -> None:
        """Start a process before the first job comes."""
        with self._changed:
            if not self._idle and not self._num_busy:
                self._idle.append(_start())

    def end(self) -> None:
        """End the idle processes."""
        with self._changed:
            idle, self._idle = self._idle, []
        for process in idle:
            _end(process)

    def _take(self, cancellation: Cancellation) -> "subprocess.Popen[str]":
        with self._changed:
            self._changed.wait_for(lambda: cancellation.is_cancelled or self._num_busy < NUM_PROCESSES)
            cancellation.check()
            self._num_busy += 1
            if self._idle:
                return self._idle.pop()
        try:
            return _start()
        except BaseException:
            self._give_back(None)
            raise

    def _give_back(self, process: "subprocess.Popen[str] | None") -> None:
        with self._changed:
            self._num_busy -= 1
            if process is not None:
                self._idle.append(process)
            self._changed.notify_all()


_LANES = (_Lane(), _Lane())


def run_trial(jobs: Sequence[Job], max_cpu_s: float) -> Trial:
    """Compile grammars one after the other in a process that may use ``max_cpu_s`` of processor time for them all.

    Blocks; a ``Cancellation`` that is current ends it. Raises ``TrialCancelledError``.
    """
    quick, slow = _LANES
    trial = quick.run(jobs, min(QUICK_CPU_S, max_cpu_s))
    if trial.death == "time" and max_cpu_s > QUICK_CPU_S:
        trial = slow.run(jobs, max_cpu_s)
    return trial


def warm_up() -> None:
    """Start the process that the first compilation needs, about a twentieth of a second's work of its own."""
    _LANES[0].warm_up()


def _start() -> "subprocess.Popen[str]":
    return subprocess.Popen(  # noqa: S603 - our own module
        _COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, encoding="utf-8"
    )


def _ask(process: "subprocess.Popen[str]", jobs: Sequence[Job], cpu_s: float) -> Trial:
    assert process.stdin is not None
    assert process.stdout is not None
    problems: list[str] = []
    used_s = 0.0
    try:
        process.stdin.write(json.dumps([cpu_s, jobs]) + "\n")
        process.stdin.flush()
    except BrokenPipeError:
        pass  # how it died is seen below
    while len(problems) < len(jobs) and not (problems and problems[-1]):
        line = process.stdout.readline()
        if not line:
            return Trial(tuple(problems), used_s, _death(process.wait()))
        problem, cpu_s = json.loads(line)
        problems.append(problem)
        used_s += cpu_s
    return Trial(tuple(problems), used_s)


def _death(status: int) -> Literal["time", "crash"]:
    if status >= 0:
        raise RuntimeError(f"the process that compiles grammars ended with status {status}")
    return "time" if status == -signal.SIGPROF else "crash"


def _end(process: "subprocess.Popen[str]") -> None:
    process.kill()
    with suppress(BrokenPipeError), process:  # what it had not read is of no use
        pass


@atexit.register
def _end_all() -> None:
    for lane in _LANES:
        lane.end()
