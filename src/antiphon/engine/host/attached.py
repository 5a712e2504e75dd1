"""An engine that another process supervises; that process publishes the engine's status in a small file on this machine.

Several API processes share one engine per model this way. Each has a connection of its own to the engine's socket.
"""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

import msgspec

from antiphon.engine.errors import EngineStartFailed, EngineStopped
from antiphon.engine.host.client import EngineClient
from antiphon.engine.host.supervisor import EngineState
from antiphon.engine.ipc.messages import ModelInfo
from antiphon.engine.statistics import EngineStatistics

_LOOK_EVERY_S = 0.1


class EngineStatus(msgspec.Struct, frozen=True):
    """What the supervising process publishes about an engine.

    ``socket`` is that of the present process, None before the first. ``retry_after_s`` is None unless the last start failed.
    """

    state: EngineState
    socket: str | None
    statistics: EngineStatistics
    retry_after_s: float | None = None


_decode = msgspec.msgpack.Decoder(EngineStatus).decode


def write_status(path: Path, status: EngineStatus) -> None:
    """Replace the status file atomically, so that a reader never sees a part of it."""
    fresh = path.with_suffix(".new")
    fresh.write_bytes(msgspec.msgpack.encode(status))
    fresh.replace(path)


def read_status(path: Path) -> EngineStatus:
    """Return the published status; before the first one the engine is loading."""
    try:
        return _decode(path.read_bytes())
    except FileNotFoundError:
        return EngineStatus("loading", None, EngineStatistics())


class AttachedProcess:
    """Takes the place of a ``Supervisor``, but starts and ends nothing. ``on_ready`` is called for each new process."""

    def __init__(self, path: Path, on_ready: Callable[[Path, ModelInfo], None]) -> None:
        self.failure: EngineStartFailed | None = None
        self._path = path
        self._on_ready = on_ready
        self._known: str | None = None
        self._looking: asyncio.Task[None] | None = None
        self._is_closed = False

    @property
    def state(self) -> EngineState:
        """The state that the supervisor last published; ``stopped`` once this object is closed."""
        return "stopped" if self._is_closed else read_status(self._path).state

    @property
    def statistics(self) -> EngineStatistics:
        """The statistics that the supervisor last published; the same for every attached process."""
        return read_status(self._path).statistics

    @property
    def retry_after_s(self) -> float | None:
        """Seconds until its supervisor starts it again, None unless the last start failed."""
        return read_status(self._path).retry_after_s

    @property
    def pid(self) -> None:
        """The process belongs to another."""
        return

    async def start(self) -> None:
        """Wait until the engine accepts connections.

        Raises:
            EngineStartFailed: its supervisor gave up.
        """
        while not await self._look():
            if self.state in {"failed", "stopped"}:
                raise EngineStartFailed("the process that owns the engine could not start it")
            await asyncio.sleep(_LOOK_EVERY_S)
        self._looking = asyncio.create_task(self._keep_looking())

    async def aclose(self) -> None:
        """Stop watching the file. Idempotent."""
        self._is_closed = True
        if self._looking is not None:
            self._looking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._looking

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            await self._look()

    async def _look(self) -> bool:
        """Report a new process once it answers; return False while there is nothing to connect to."""
        status = read_status(self._path)
        if status.state != "ready" or status.socket is None:
            return False
        if status.socket != self._known:
            try:
                client = await EngineClient.connect(Path(status.socket))
            except EngineStopped:
                return False
            self._known = status.socket
            self._on_ready(Path(status.socket), client.info)
            await client.aclose()
        return True
