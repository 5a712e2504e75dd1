"""An engine that another process supervises: what is known of it comes from a status, a small file on the same machine.

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
    """How an engine is: its state, and the socket of its present process (None: there never was one)."""

    state: EngineState
    socket: str | None
    statistics: EngineStatistics


_decode = msgspec.msgpack.Decoder(EngineStatus).decode


def write_status(path: Path, status: EngineStatus) -> None:
    """Write a status so that a reader sees the old or the new one, whole."""
    fresh = path.with_suffix(".new")
    fresh.write_bytes(msgspec.msgpack.encode(status))
    fresh.replace(path)


def read_status(path: Path) -> EngineStatus:
    """Return the present status; before the first one the engine is loading."""
    try:
        return _decode(path.read_bytes())
    except FileNotFoundError:
        return EngineStatus("loading", None, EngineStatistics())


class AttachedProcess:
    """Stands where a ``Supervisor`` would; it starts and ends nothing. ``on_ready`` is called for each new process."""

    def __init__(self, path: Path, on_ready: Callable[[Path, ModelInfo], None]) -> None:
        self.failure: EngineStartFailed | None = None
        self._path = path
        self._on_ready = on_ready
        self._known: str | None = None
        self._looking: asyncio.Task[None] | None = None
        self._is_closed = False

    @property
    def state(self) -> EngineState:
        """The engine's state as its supervisor last said; ``stopped`` once this follower is closed."""
        return "stopped" if self._is_closed else read_status(self._path).state

    @property
    def statistics(self) -> EngineStatistics:
        """What its supervisor last said; the same for every follower."""
        return read_status(self._path).statistics

    @property
    def pid(self) -> None:
        """The process is another's."""
        return

    async def start(self) -> None:
        """Wait until the engine can be connected to.

        Raises:
            EngineStartFailed: its supervisor gave up.
        """
        while not await self._look():
            if self.state in {"failed", "stopped"}:
                raise EngineStartFailed("the engine was not started by the process that owns it")
            await asyncio.sleep(_LOOK_EVERY_S)
        self._looking = asyncio.create_task(self._keep_looking())

    async def aclose(self) -> None:
        """Stop following. Idempotent."""
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
        """Tell of a new process once it answers; False while there is nothing to connect to."""
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
