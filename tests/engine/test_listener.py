"""The engine's socket over a core that the test drives: which preparations are cancelled, and what hangs."""

import asyncio
import threading
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from tests.engine.test_client import INFO
from tests.waiting import until, wait_until

from antiphon.engine.ipc.messages import Cancel, Request, Tokenize, Tokenized
from antiphon.engine.ipc.wire import decode_answers, frame, read_frame
from antiphon.engine.worker.core import Start
from antiphon.engine.worker.generation_core import GenerationCore
from antiphon.engine.worker.listener import Listener

pytestmark = pytest.mark.anyio


class _Core:
    """Prepares requests when the test lets it."""

    info = INFO
    max_requests = 9

    def __init__(self) -> None:
        self.prepared: list[asyncio.Event] = []
        self.num_cancelled = 0

    def warm_up(self) -> None:
        """Nothing to do."""

    def cancel(self, connection: int, request: int | None = None) -> None:
        """Nothing runs."""

    async def prepare(self, connection: int, request: Request, arrived: float) -> Tokenized | Start:
        release = asyncio.Event()
        self.prepared.append(release)
        try:
            await release.wait()
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise
        return Tokenized(request.id, ())


@pytest.fixture
async def served(tmp_path: Path) -> AsyncGenerator[tuple[_Core, Listener, Path]]:
    core: Any = _Core()
    listener = Listener(core)
    async with await listener.serve(tmp_path / "engine.sock"):
        yield core, listener, tmp_path / "engine.sock"


async def test_a_cancelled_request_is_not_prepared_further(served: tuple[_Core, Listener, Path]) -> None:
    """Cancelling stops the preparation; the id can be used again, and its new request can be cancelled too."""
    core, listener, path = served
    reader, writer = await asyncio.open_unix_connection(path)
    await read_frame(reader)
    writer.write(frame(Tokenize(7, ())))
    await until(lambda: len(core.prepared) == 1)
    writer.write(frame(Cancel(7)) + frame(Tokenize(7, ())))
    await until(lambda: len(core.prepared) == 2)
    assert core.num_cancelled == 1
    writer.write(frame(Cancel(7)))
    await until(lambda: core.num_cancelled == 2)
    writer.write(frame(Tokenize(9, ())))
    await until(lambda: len(core.prepared) == 3)
    core.prepared[-1].set()
    body = await read_frame(reader)
    assert body is not None
    assert decode_answers(body) == [Tokenized(9, ())]
    assert not listener._preparing
    writer.close()


async def test_a_connection_that_ends_stops_its_preparations(served: tuple[_Core, Listener, Path]) -> None:
    """Nothing is prepared for a client that is gone."""
    core, listener, path = served
    reader, writer = await asyncio.open_unix_connection(path)
    await read_frame(reader)
    writer.write(frame(Tokenize(1, ())) + frame(Tokenize(2, ())))
    await until(lambda: len(core.prepared) == 2)
    writer.close()
    await until(lambda: core.num_cancelled == 2)
    assert not listener._open


def test_a_compilation_counts_as_native_work() -> None:
    """A grammar whose compilation does not end is seen by the supervisor as a step that hangs."""

    class _Grammars:
        entered, release = threading.Event(), threading.Event()

        def compile(self, grammar: str) -> str:
            self.entered.set()
            assert self.release.wait(60)
            return grammar

    class _Loop:
        step_started = None

    core: Any = object.__new__(GenerationCore)
    core._grammars, core.loop, core._compile_started = _Grammars(), _Loop(), None
    assert core.native_started is None
    compiling = threading.Thread(target=core._compile, args=("start: x",))
    compiling.start()
    assert _Grammars.entered.wait(60)
    assert core.native_started is not None
    _Grammars.release.set()
    compiling.join()
    wait_until(lambda: core.native_started is None)
