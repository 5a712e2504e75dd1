"""Inside the engine's process: the model's loop in the main thread, socket and heartbeat in a second one."""

import asyncio
import importlib.util
import os
import threading
import time
import traceback
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
    """Load the model, say so, and serve. Returns when the model cannot be loaded."""
    try:
        _Process(settings, socket, reports, way).run()
    except EngineStartFailed as error:
        _report(reports, LoadFailed(error.message, error.hint))


class _Process:
    def __init__(self, settings: EngineSettings, socket: Path, reports: BinaryIO, way: Way) -> None:
        missing = next((name for name in ("llguidance", "gguf") if importlib.util.find_spec(name) is None), None)
        if missing is not None:
            raise EngineStartFailed(
                f"{missing} is not installed", hint="Install what runs local models: pip install 'antiphon[local]'"
            )
        from antiphon.engine.worker.core import ModelService  # noqa: PLC0415 - checked to be there just now
        from antiphon.engine.worker.native_start import NativeStart  # noqa: PLC0415 - the same

        self._socket = socket
        self._reports = reports
        native = NativeStart(settings, way, lambda phase: _report(reports, phase))
        self._service = ModelService(settings, self._emit, native)

    def run(self) -> None:
        threading.Thread(target=self._serve_or_end, daemon=True, name="socket").start()
        self._service.loop.run()

    def _serve_or_end(self) -> None:
        """Serve; whatever ends that ends the process, as nobody could reach it any more."""
        try:
            asyncio.run(self._serve())
        finally:
            traceback.print_exc()
            os._exit(1)

    def _emit(self, answers: list[tuple[int, Answer]]) -> None:
        self._listener.send(answers)

    async def _serve(self) -> None:
        self._listener = Listener(self._service.info, self._service)
        server = await self._listener.serve(self._socket)
        _report(self._reports, Ready(self._service.info))
        async with server:
            while True:
                await asyncio.sleep(HEARTBEAT_S)
                started = self._service.loop.step_started
                step_s = 0.0 if started is None else time.monotonic() - started
                _report(self._reports, Heartbeat(step_s, self._statistics()))

    def _statistics(self) -> EngineStatistics:
        statistics = self._service.loop.statistics
        return msgspec.structs.replace(
            statistics,
            kv_bytes=self._service.kv_bytes,
            resident_bytes=resident_bytes(),
            refused=statistics.refused + self._listener.num_refused,
        )


def _report(reports: BinaryIO, report: Report) -> None:
    try:
        reports.write(frame(report))
    except BrokenPipeError:
        os._exit(0)
