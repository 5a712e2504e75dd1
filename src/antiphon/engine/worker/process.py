"""Inside the engine's process: the core's loop in the main thread, socket and heartbeat in a second one."""

import asyncio
import importlib.util
import os
import select
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import msgspec

from antiphon.engine.errors import EngineStartFailed
from antiphon.engine.ipc.messages import Answer, Heartbeat, LoadFailed, Ready, Report
from antiphon.engine.ipc.wire import frame
from antiphon.engine.machine import resident_bytes
from antiphon.engine.settings import EngineSettings
from antiphon.engine.startup import Way
from antiphon.engine.statistics import EngineStatistics
from antiphon.engine.worker.listener import Listener

HEARTBEAT_S = 0.25


def run(settings: EngineSettings, socket: Path, reports: BinaryIO, way: Way) -> None:
    """Load the model, report it, and serve. Returns when the model cannot be loaded."""
    try:
        process = _Process(settings, socket, reports, way)
    except EngineStartFailed as error:
        _report(reports, LoadFailed(error.message, error.hint))
        return
    process.run()


class _Process:
    def __init__(self, settings: EngineSettings, socket: Path, reports: BinaryIO, way: Way) -> None:
        missing = next((name for name in ("llguidance", "gguf") if importlib.util.find_spec(name) is None), None)
        if missing is not None:
            raise EngineStartFailed(
                f"{missing} is not installed", hint="Install what runs local models: pip install 'antiphon[local]'"
            )
        from antiphon.engine.worker.native_start import NativeStart  # noqa: PLC0415 - checked to be there just now
        from antiphon.engine.worker.opening import open_core  # noqa: PLC0415 - the same

        self._socket = socket
        self._reports = reports
        native = NativeStart(settings, way, lambda phase: _report(reports, phase))
        self._core = open_core(settings, native, self._emit)

    def run(self) -> None:
        threading.Thread(target=self._serve, daemon=True, name="socket").start()
        _end_process_after(self._core.loop.run)

    def _serve(self) -> None:
        _end_process_after(lambda: asyncio.run(self._listen()))

    def _emit(self, answers: list[tuple[int, Answer]]) -> None:
        self._listener.send(answers)

    async def _listen(self) -> None:
        self._listener = Listener(self._core)
        server = await self._listener.serve(self._socket)
        _report(self._reports, Ready(self._core.info))
        async with server:
            while True:
                await asyncio.sleep(HEARTBEAT_S)
                started = self._core.native_started
                step_s = 0.0 if started is None else time.monotonic() - started
                if _has_room(self._reports):
                    _report(self._reports, Heartbeat(step_s, self._statistics()))

    def _statistics(self) -> EngineStatistics:
        statistics = self._core.statistics
        return msgspec.structs.replace(
            statistics,
            resident_bytes=resident_bytes(),
            refused=statistics.refused + self._listener.num_refused,
        )


def _end_process_after(work: Callable[[], None]) -> None:
    """Run what must never end, and end the process if it does: without it nobody gets an answer.

    Threads that still tokenise or compile are not waited for.
    """
    try:
        work()
    finally:
        traceback.print_exc()
        os._exit(1)


def _has_room(reports: BinaryIO) -> bool:
    """Whether a heartbeat can be written at once. The supervisor may be busy; the engine must not wait for it."""
    return bool(select.select([], [reports], [], 0)[1])


def _report(reports: BinaryIO, report: Report) -> None:
    try:
        reports.write(frame(report))
    except BrokenPipeError:
        os._exit(0)
