"""Several API processes behind one port, sharing one engine per model: ``[server] workers``.

This process owns the port, the engines and the workers, and answers nothing itself. A worker that dies is replaced; when
this process ends in any way, workers and engines end with it.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from antiphon.engine import Engine, write_status
from antiphon.errors import AntiphonError, ConfigError
from antiphon.server.configuration import Configuration
from antiphon.server.logs import log
from antiphon.server.process.deadline import END_S, end_within
from antiphon.server.process.server_parts import ModelFile, make_engine, status_path

_POST_EVERY_S = 0.25
_FIRST_BACKOFF_S, _LAST_BACKOFF_S = 0.2, 10.0
_LEAVE_S = 4.0
"""How long a worker may take beyond the grace time before it is killed; less than this process has itself."""


class WorkerPool:
    """Owns engines and workers from ``run`` to its end. ``options`` are those of the command line, for the workers."""

    def __init__(
        self,
        configuration: Configuration,
        files: Sequence[ModelFile],
        listener: socket.socket,
        *,
        config_file: Path | None,
        options: dict[str, dict[str, Any]],
    ) -> None:
        if configuration.accounts.redis_url is None:
            raise ConfigError(
                f"[server] workers = {configuration.server.workers} needs [accounts] redis_url: "
                "limits hold only where all processes count together",
                hint="start Redis and name it, or use one worker",
            )
        if configuration.console.capture:
            raise ConfigError(
                f"[console] capture with [server] workers = {configuration.server.workers}: a page would find the contents "
                "of those requests alone that the worker that answers it has served",
                hint="use one worker while you look at requests",
            )
        self._configuration = configuration
        self._files = list(files)
        self._listener = listener
        self._config_file = config_file
        self._options = options
        self._workers: dict[int, asyncio.subprocess.Process] = {}
        self._is_ending = False
        self._is_open = False

    async def run(self, on_ready: Callable[[Sequence[Engine], bool], None]) -> None:
        """Serve until SIGINT or SIGTERM. ``on_ready`` is given the engines, and whether any key is accepted."""
        engines = [make_engine(self._configuration, file) for file in self._files]
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop, stop, engines)
        with tempfile.TemporaryDirectory(prefix="antiphon-") as folder:
            tasks = [asyncio.ensure_future(self._post(Path(folder), engines))]
            try:
                ready = [asyncio.Event() for _ in range(self._configuration.server.workers)]
                tasks += [asyncio.ensure_future(self._keep(n, Path(folder), event)) for n, event in enumerate(ready)]
                await self._until(stop, tasks, self._start(engines, ready))
                if not stop.is_set():
                    on_ready(engines, self._is_open)
                await self._until(stop, tasks, stop.wait())
            finally:
                self._is_ending = True
                await self._dismiss()
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await asyncio.gather(*(engine.aclose() for engine in engines))

    def _stop(self, stop: asyncio.Event, engines: Sequence[Engine]) -> None:
        def children() -> list[int]:
            pids = [engine.pid for engine in engines]
            pids += [process.pid for process in self._workers.values() if process.returncode is None]
            return [pid for pid in pids if pid is not None]

        end_within(self._configuration.server.shutdown_grace_s + END_S, children)
        stop.set()

    async def _start(self, engines: Sequence[Engine], ready: Sequence[asyncio.Event]) -> None:
        await asyncio.gather(*(engine.start() for engine in engines))
        await asyncio.gather(*(event.wait() for event in ready))

    async def _until(self, stop: asyncio.Event, tasks: Sequence["asyncio.Future[None]"], work: Any) -> None:
        """Wait for ``work``, unless a signal comes or one of ``tasks`` fails, which is raised."""
        waiting = [asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())]
        try:
            done, _ = await asyncio.wait({*waiting, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in waiting:
                task.cancel()

    async def _post(self, folder: Path, engines: Sequence[Engine]) -> None:
        while True:
            for file, engine in zip(self._files, engines, strict=True):
                write_status(status_path(folder, file), engine.status())
            await asyncio.sleep(_POST_EVERY_S)

    async def _keep(self, number: int, folder: Path, ready: asyncio.Event) -> None:
        """Keep one worker running; raises if it never gets ready."""
        backoff_s = _FIRST_BACKOFF_S
        while not self._is_ending:
            process = await self._spawn(folder)
            self._workers[number] = process
            assert process.stdout is not None
            if said := await process.stdout.readline():
                self._is_open = bool(json.loads(said)["open"])
                ready.set()
                backoff_s = _FIRST_BACKOFF_S
            code = await process.wait()
            if self._is_ending:
                return
            _forget(folder, process.pid)
            if not ready.is_set():
                raise AntiphonError(f"a worker could not start (status {code})", hint="its reason is printed above")
            log.error("worker ended", worker=number, status=code)
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, _LAST_BACKOFF_S)

    async def _spawn(self, folder: Path) -> asyncio.subprocess.Process:
        descriptor = self._listener.fileno()
        # In a session of its own it does not get Ctrl-C: this process ends the workers in order.
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "antiphon.server.process.worker",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            pass_fds=(descriptor,), start_new_session=True,
            env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)},
        )  # fmt: skip
        order = {
            "config_file": None if self._config_file is None else str(self._config_file),
            "options": self._options,
            "status_folder": str(folder),
            "listener": descriptor,
        }
        assert process.stdin is not None
        process.stdin.write(json.dumps(order).encode() + b"\n")
        return process

    async def _dismiss(self) -> None:
        """Ask all workers to end, and kill those that take too long."""
        running = [process for process in self._workers.values() if process.returncode is None]
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        patience_s = self._configuration.server.shutdown_grace_s + _LEAVE_S
        for process in running:
            try:
                async with asyncio.timeout(patience_s):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


def _forget(folder: Path, pid: int) -> None:
    """Remove a dead worker's gauges from the sum; its counters stay."""
    for gauge in folder.glob(f"gauge_live*_{pid}.db"):
        gauge.unlink()
