"""An engine as the API uses it: a supervised process and a connection to it."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path

from antiphon.engine.errors import EngineCrashed, EngineStopped
from antiphon.engine.host.attached import AttachedProcess, EngineStatus
from antiphon.engine.host.client import EngineClient, GenerationAnswer
from antiphon.engine.host.supervisor import EngineState, Supervisor
from antiphon.engine.ipc.messages import Embedded, Generate, ModelInfo, Priority, Prompt, Ranked, Scored, Tokenized
from antiphon.engine.settings import EngineSettings
from antiphon.engine.statistics import EngineStatistics

_RESTART_WAIT_S = 30.0
_MAX_PAUSE_S = 2.0
"""A longer pause before the next start is not waited for."""
_TRY_EVERY_S = 0.05


class Engine:
    """One model, served by a process of its own that is restarted when it dies.

    A call raises ``EngineCrashed`` if the process dies during it. A call made during a restart waits for it.
    With ``status_file``, another process supervises the engine and publishes its status there; nothing is started here.
    """

    def __init__(self, settings: EngineSettings, *, status_file: Path | None = None) -> None:
        self.settings = settings
        self._supervisor = (
            Supervisor(settings, self._ready) if status_file is None else AttachedProcess(status_file, self._ready)
        )
        self._path: Path | None = None
        self._info: ModelInfo | None = None
        self._client: EngineClient | None = None
        self._connecting = asyncio.Lock()
        self._is_ready = asyncio.Event()

    @property
    def info(self) -> ModelInfo:
        """The model's description.

        Raises:
            EngineStopped: before ``start``.
        """
        if self._info is None:
            raise EngineStopped("the engine was not started")
        return self._info

    @property
    def state(self) -> EngineState:
        """The state of the process."""
        return self._supervisor.state

    @property
    def pid(self) -> int | None:
        """The process's id, None while there is none."""
        return self._supervisor.pid

    def status(self) -> EngineStatus:
        """Return what other processes need to attach to this engine."""
        path = None if self._path is None else str(self._path)
        return EngineStatus(self.state, path, self.statistics(), self._supervisor.retry_after_s)

    def statistics(self) -> EngineStatistics:
        """Return the statistics of the last heartbeat."""
        return self._supervisor.statistics

    async def start(self) -> None:
        """Start the process and wait until the model is loaded.

        Raises:
            EngineStartFailed: with reason and hint.
        """
        await self._supervisor.start()

    async def aclose(self) -> None:
        """End the process; open requests raise ``EngineStopped``. Idempotent."""
        if self._client is not None:
            await self._client.aclose()
        await self._supervisor.aclose()

    async def generate(self, request: Generate) -> AsyncGenerator[GenerationAnswer]:
        """Yield ``Prefilled``, then each choice's ``Delta`` and ``Finished``. Closing the generator cancels.

        ``request.id`` is assigned here. See ``errors`` for what can be raised.
        """
        client = await self._connected()
        async with contextlib.aclosing(client.generate(request)) as answers:
            async for answer in answers:
                yield answer

    async def prefill(self, prompt: Prompt) -> int:
        """See ``EngineClient.prefill``."""
        return await (await self._connected()).prefill(prompt)

    async def embed(self, prompts: tuple[Prompt, ...], priority: Priority = "interactive") -> Embedded:
        """Return a unit vector for each prompt."""
        return await (await self._connected()).embed(prompts, priority)

    async def rank(self, prompts: tuple[Prompt, ...], priority: Priority = "interactive") -> Ranked:
        """Return the relevance of the document in each prompt, from 0 to 1."""
        return await (await self._connected()).rank(prompts, priority)

    async def tokenize(self, prompts: tuple[Prompt, ...]) -> Tokenized:
        """Return the token ids of each prompt."""
        return await (await self._connected()).tokenize(prompts)

    async def count(self, prompts: tuple[Prompt, ...]) -> tuple[int, ...]:
        """See ``EngineClient.count``."""
        return await (await self._connected()).count(prompts)

    async def score(self, prompt: Prompt, continuations: tuple[Prompt, ...]) -> Scored:
        """Return the log-probability of each continuation after ``prompt``."""
        return await (await self._connected()).score(prompt, continuations)

    def _ready(self, path: Path, info: ModelInfo) -> None:
        self._path = path
        self._info = info
        self._is_ready.set()

    async def _connected(self) -> EngineClient:
        """Return the connection; while the process restarts, wait for it.

        Raises:
            EngineCrashed: it is not back in time, or could not be restarted and is not tried again soon.
            EngineStopped: the engine was closed.
        """
        try:
            # Every caller has its own time limit, also while it waits for another that reconnects.
            async with asyncio.timeout(_RESTART_WAIT_S), self._connecting:
                if self._client is not None and self._client.is_open:
                    return self._client
                return await self._reconnect()
        except TimeoutError:
            message = f"the engine did not restart within {_RESTART_WAIT_S:g} s"
            raise EngineCrashed(message, retry_after_s=_RESTART_WAIT_S) from None

    async def _reconnect(self) -> EngineClient:
        while True:
            if self.state in {"stopped", "failed"}:
                raise EngineStopped(f"the engine is {self.state}")
            retry_after_s = self._supervisor.retry_after_s
            if retry_after_s is not None and retry_after_s > _MAX_PAUSE_S:
                failure = self._supervisor.failure
                reason = "" if failure is None else f": {failure}"
                raise EngineCrashed(f"the engine could not be restarted{reason}", retry_after_s=retry_after_s)
            await self._is_ready.wait()
            assert self._path is not None
            try:
                self._client = await EngineClient.connect(self._path)
            except EngineStopped:
                # The old process's socket, or that of one that is well but busy: nothing reports the latter again.
                await asyncio.sleep(_TRY_EVERY_S)
            else:
                return self._client
