"""Owns an engine's process: starts it, watches its heartbeat, restarts it with backoff, and leaves no orphan."""

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from antiphon.engine.child_process import child_environment
from antiphon.engine.errors import EngineStartFailed
from antiphon.engine.ipc.messages import Heartbeat, LoadFailed, ModelInfo, Phase, Ready, Report
from antiphon.engine.ipc.wire import FrameError, read_frame
from antiphon.engine.settings import EngineSettings, to_json
from antiphon.engine.startup import Death, Way, failure, next_way
from antiphon.engine.statistics import EngineStatistics

_log = logging.getLogger(__name__)
T = TypeVar("T")
EngineState = Literal["loading", "ready", "restarting", "failed", "stopped"]
_decode_report = msgspec.msgpack.Decoder(Report).decode
_OPENMP = {"OMP_WAIT_POLICY": "active", "GOMP_SPINCOUNT": "2000"}
"""Threads wait for each other by spinning for a few microseconds, then sleep: see `docs/engine/measurements.md`."""
_FIRST_BACKOFF_S, _LAST_BACKOFF_S = 0.1, 30.0
_HEALTHY_AFTER_S = 60.0
_KEPT_STDERR_LINES = 50
_PARTS = 20


class Supervisor:
    """Keeps one engine process running from ``start`` to ``aclose``.

    ``on_ready`` is called, with the socket's path, whenever a process can be connected to.
    """

    def __init__(self, settings: EngineSettings, on_ready: Callable[[Path, ModelInfo], None]) -> None:
        self.state: EngineState = "stopped"
        self.statistics = EngineStatistics()
        self.failure: EngineStartFailed | None = None
        self._settings = settings
        self._on_ready = on_ready
        self._directory: Path | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._num_starts = 0
        self._next_start: float | None = None
        self._way = Way()
        self._phase = Phase("starting")

    async def start(self) -> None:
        """Start the process and wait until the model is loaded.

        Raises:
            EngineStartFailed: it cannot be; nothing is left running.
        """
        self.state = "loading"
        self._directory = Path(tempfile.mkdtemp(prefix="antiphon-"))
        try:
            await self._spawn()
        except BaseException:
            await self.aclose()
            self.state = "failed"
            raise
        self._watcher = asyncio.create_task(self._keep_running())

    async def aclose(self) -> None:
        """End the process. Idempotent."""
        self.state = "stopped"
        if self._watcher is not None:
            self._watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watcher
        await self._kill()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    @property
    def retry_after_s(self) -> float | None:
        """Seconds until the next start, None unless the last one failed."""
        return None if self._next_start is None else max(0.0, self._next_start - asyncio.get_running_loop().time())

    @property
    def pid(self) -> int | None:
        """The process's id, None while there is none."""
        return None if self._process is None or self._process.returncode is not None else self._process.pid

    async def _spawn(self) -> None:
        """Start a process that gets its model ready; where one dies, try the next way (`antiphon.engine.startup`)."""
        deaths: list[Death] = []
        while True:
            try:
                death = await self._spawn_once()
            except EngineStartFailed as error:
                self._way = Way()
                if deaths:
                    raise failure(deaths, error) from error
                raise
            if death is None:
                return
            deaths.append(death)
            _log.warning("%s", death.describe())
            way = next_way(death)
            self._way = way or Way()
            if way is None:
                raise failure(deaths)
            await self._kill()

    async def _spawn_once(self) -> Death | None:
        """Start one process and wait until its model is ready; return how it died before that, if it did."""
        self._num_starts += 1
        self._phase = Phase("starting")
        assert self._directory is not None
        path = self._directory / f"engine-{self._num_starts}.sock"
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "antiphon.engine", str(path), msgspec.json.encode(self._way).decode(),
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
                env=_OPENMP | child_environment(),
            )  # fmt: skip
        except OSError as error:
            raise EngineStartFailed(
                f"no process could be started: {error}", hint="Free memory, processes or open files."
            ) from error
        assert self._process.stdin is not None
        assert self._process.stderr is not None
        self._stderr: deque[str] = deque(maxlen=_KEPT_STDERR_LINES)
        self._stderr_reader = asyncio.create_task(_keep_lines(self._process.stderr, self._stderr))
        self._process.stdin.write(to_json(self._settings) + b"\n")
        try:
            report = await within(self._settings.start_timeout_s, self._first_report())
        except TimeoutError:
            seconds = self._settings.start_timeout_s
            raise EngineStartFailed(
                f"the model was not loaded within {seconds} s; last: {self._phase.name}",
                hint="Raise `start_timeout_s`.",
            ) from None
        match report:
            case Ready(info):
                self.state = "ready"
                self.failure = None
                self._phase = msgspec.structs.replace(self._phase, name="serving")
                self._on_ready(path, info)
                return None
            case LoadFailed(message, hint):
                raise EngineStartFailed(message, hint=hint)
            case _:
                return await self._death()

    async def _first_report(self) -> Report | None:
        """Return the process's first report after the phases of its start, None if it ended."""
        while isinstance(report := await self._report(), Phase):
            self._phase = report
        return report

    async def _report(self) -> Report | None:
        """Return the process's next report, None if it ended or sent something else."""
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            body = await read_frame(self._process.stdout)
            return None if body is None else _decode_report(body)
        except (FrameError, msgspec.DecodeError):
            return None

    async def _keep_running(self) -> None:
        backoff_s = _FIRST_BACKOFF_S
        while True:
            healthy_s, because = await self._watch()
            backoff_s = _FIRST_BACKOFF_S if healthy_s > _HEALTHY_AFTER_S else backoff_s
            self.state = "restarting"
            await self._kill()
            death = msgspec.structs.replace(await self._death(), replaced_because=because)
            _log.error("%s", death.describe())
            if death.code == -signal.SIGILL:
                self._way = next_way(death) or self._way
            while self.state == "restarting":
                await self._kill()
                await asyncio.sleep(backoff_s)
                backoff_s = min(2 * backoff_s, _LAST_BACKOFF_S)
                self._next_start = None
                try:
                    await self._spawn()
                except EngineStartFailed as error:
                    self.failure = error
                    self._next_start = asyncio.get_running_loop().time() + backoff_s

    async def _watch(self) -> tuple[float, str]:
        """Return, when the process has ended or hangs, for how long it was well, and how it hangs, if it does."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        while True:
            try:
                report = await within(self._settings.heartbeat_timeout_s, self._report())
            except TimeoutError:
                because = f"it sent no heartbeat for {self._settings.heartbeat_timeout_s:g} s"
                break
            if not isinstance(report, Heartbeat):
                because = ""
                break
            if report.step_s > self._settings.step_timeout_s:
                because = f"one step took more than {self._settings.step_timeout_s:g} s"
                break
            self.statistics = msgspec.structs.replace(report.statistics, restarts=self._num_starts - 1)
        return loop.time() - started, because

    async def _kill(self) -> None:
        if self._process is None:
            return
        if self._process.returncode is None:
            # Not Process.kill: that polls, and so takes the exit status away from asyncio's watcher.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        self._stderr_reader.cancel()
        assert self._process.stdin is not None
        self._process.stdin.close()

    async def _exit_code(self) -> int:
        assert self._process is not None
        return await self._process.wait()

    def _last_words(self) -> str:
        return "; ".join(line for line in list(self._stderr)[-8:] if line)

    async def _death(self) -> Death:
        return Death(self._way, self._phase, await self._exit_code(), self._last_words())


async def within(seconds: float, coroutine: Coroutine[Any, Any, T]) -> T:
    """Return the result of ``coroutine`` if it comes within ``seconds``, not counting time in which this loop did not run.

    The wait is cut into parts. A part that took longer, because something blocked the loop, counts as one part: what the
    other process sent meanwhile has not been read yet, so its silence is not proven.

    Raises:
        TimeoutError: it did not come; it is cancelled.
    """
    waiting = asyncio.ensure_future(coroutine)
    try:
        for _ in range(_PARTS):
            done, _pending = await asyncio.wait({waiting}, timeout=seconds / _PARTS)
            if done:
                return waiting.result()
        raise TimeoutError
    finally:
        waiting.cancel()


async def _keep_lines(stream: asyncio.StreamReader, lines: deque[str]) -> None:
    """Read to the end: a process whose output nobody reads would block."""
    while True:
        try:
            line = await stream.readline()
        except ValueError:
            lines.append("(a line too long to be kept)")
            continue
        if not line:
            return
        lines.append(line.decode("utf-8", "replace").rstrip())
