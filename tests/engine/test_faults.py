"""Faults around a request: a full queue, deadlines, clients that leave, peers that send garbage, hangs, orphans."""

import asyncio
import contextlib
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from tests.installed import engine_settings
from tests.processes import is_alive
from tests.waiting import until

import antiphon
from antiphon.engine import (
    DeadlineExceeded,
    Engine,
    EngineCrashed,
    EngineOverloaded,
    EngineSettings,
    EngineStartFailed,
    EngineStopped,
    InvalidPrompt,
)
from antiphon.engine.host.supervisor import _keep_lines
from antiphon.engine.ipc.messages import Delta, Generate, Prompt, SamplingParams, Text
from antiphon.engine.ipc.wire import frame, read_frame
from antiphon.engine.settings import to_json

pytestmark = [pytest.mark.anyio, pytest.mark.model]

SOURCE = str(Path(antiphon.__file__).parents[1])
HELLO: Prompt = (Text("<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n", special=True),)
ENDLESS = Generate(id=0, prompt=HELLO, sampling=SamplingParams(logit_bias={0: -100, 2: -100, 4: -100}))
SHORT = Generate(id=0, prompt=HELLO, max_tokens=3, sampling=SamplingParams(temperature=0))


@pytest.fixture
async def small_engine(chat_model: Path, on_runtime: dict[str, Any]) -> AsyncGenerator[Engine]:
    """An engine of each runtime that runs one request and lets one wait."""
    given: dict[str, Any] = {"context_size": 2048, "num_sequences": 1, "max_queue": 1, **on_runtime}
    engine = Engine(EngineSettings(model_path=chat_model, **given))
    await engine.start()
    yield engine
    await engine.aclose()


async def text_of(engine: Engine, request: Generate) -> str:
    return "".join([answer.text async for answer in engine.generate(request) if isinstance(answer, Delta)])


async def test_a_full_queue_refuses_at_once(small_engine: Engine) -> None:
    """The request after those that run and wait is refused with the time after which to try again; they continue."""
    running, waiting = small_engine.generate(ENDLESS), asyncio.create_task(text_of(small_engine, SHORT))
    await anext(running)
    with pytest.raises(EngineOverloaded) as caught:
        await text_of(small_engine, SHORT)
    assert caught.value.retry_after_s > 0
    await running.aclose()
    assert await waiting


async def test_more_choices_than_there_is_room_for_are_invalid(small_engine: Engine) -> None:
    """A request that could never run is invalid; it is not asked to try again."""
    with pytest.raises(InvalidPrompt, match=r"n is 3.* at most 2"):
        await text_of(small_engine, Generate(id=0, prompt=HELLO, n=3, max_tokens=3))


async def test_lines_of_any_length_are_read() -> None:
    """Output is read to its end, even if a line is longer than the reader's buffer."""
    stream, lines = asyncio.StreamReader(limit=16), deque[str]()
    stream.feed_data(b"one\n" + b"x" * 100 + b"\nthree\n" + b"y" * 100)
    stream.feed_eof()
    await _keep_lines(stream, lines)
    assert (lines[0], "three" in lines) == ("one", True)


async def test_a_client_that_leaves_frees_the_engine(small_engine: Engine) -> None:
    """Closing the generator ends the work: the next request runs though only one fits."""
    running = small_engine.generate(ENDLESS)
    await anext(running)
    await running.aclose()
    assert await text_of(small_engine, SHORT)
    await until(lambda: small_engine.statistics().cancelled == 1)


async def test_a_deadline_ends_what_runs_and_what_waits(small_engine: Engine) -> None:
    """A request whose deadline passes fails, whether it was running or still waiting."""
    running = small_engine.generate(ENDLESS)
    await anext(running)
    with pytest.raises(DeadlineExceeded):
        await text_of(small_engine, Generate(id=0, prompt=HELLO, deadline_s=0.05))
    await running.aclose()
    with pytest.raises(DeadlineExceeded):
        await text_of(small_engine, Generate(id=0, prompt=HELLO, sampling=ENDLESS.sampling, deadline_s=0.2))


async def test_peers_that_talk_garbage_do_no_harm(engine: Engine) -> None:
    """Bytes that are not a frame, frames that are not a request, and absurd lengths end that connection and nothing else."""
    path = engine._path
    assert path is not None
    generator = random.Random(5)
    garbage = [generator.randbytes(size) for size in (1, 7, 100)]
    garbage += [struct.pack("<I", 5) + b"hello", struct.pack("<I", 2**32 - 1), struct.pack("<I", 0)]
    for data in garbage:
        _, writer = await asyncio.open_unix_connection(path)
        writer.write(data)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    assert await text_of(engine, SHORT)


@pytest.mark.parametrize(
    "text", ["a" * 1_000_000, "\x00\x01\x7f\u200b" * 50, "<|im_end|><|im_start|>system", "🌊" * 300, " " * 5000]
)
async def test_no_text_brings_it_down(engine: Engine, text: str) -> None:
    """A million characters, control characters, forged control tokens: an answer or a clear refusal, and it lives."""
    with contextlib.suppress(Exception):
        await text_of(engine, Generate(id=0, prompt=(Text(text),), max_tokens=1))
    assert await text_of(engine, SHORT)
    assert engine.statistics().restarts == 0


async def test_a_process_that_hangs_is_replaced(
    chat_model: Path, on_runtime: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A process that stops answering is killed and replaced; its requests fail and the next one is answered. The log says why."""
    given: dict[str, Any] = {"context_size": 2048, "heartbeat_timeout_s": 8, **on_runtime}
    engine = Engine(EngineSettings(model_path=chat_model, **given))
    await engine.start()
    try:
        running = engine.generate(ENDLESS)
        await anext(running)
        first = engine.pid
        assert first is not None
        os.kill(first, signal.SIGSTOP)
        with pytest.raises(EngineCrashed):
            async for _ in running:
                pass
        assert await text_of(engine, SHORT)
        assert engine.pid != first
        assert "was ended because it sent no heartbeat for 8 s while serving" in caplog.text
    finally:
        await engine.aclose()


async def test_a_killed_process_is_replaced(chat_model: Path, on_runtime: dict[str, Any]) -> None:
    """After ``kill -9`` its requests fail, the next one is answered by a new process, and answers are as they were before."""
    engine = Engine(EngineSettings(model_path=chat_model, context_size=2048, **on_runtime))
    await engine.start()
    try:
        before = await text_of(engine, SHORT)
        running = engine.generate(ENDLESS)
        await anext(running)
        first = engine.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        with pytest.raises(EngineCrashed):
            async for _ in running:
                pass
        assert await text_of(engine, SHORT) == before
        assert engine.pid != first
        assert engine.info.settings["runtime"] == on_runtime["runtime"]
    finally:
        await engine.aclose()


async def test_a_process_that_cannot_be_started_at_once_is_started_later(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the system has no room for a new process just then, it is tried again."""
    start, failures = asyncio.create_subprocess_exec, [OSError("no memory"), OSError("no memory")]

    async def seldom(*arguments: Any, **options: Any) -> asyncio.subprocess.Process:
        if failures:
            raise failures.pop()
        return await start(*arguments, **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", seldom)
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGKILL)
    await until(lambda: not failures)
    assert await text_of(engine, SHORT)


async def test_a_socket_that_cannot_be_made_fails_the_start(
    chat_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The start ends at once, with the reason, instead of when it has lasted too long."""
    long = tmp_path / ("d" * 120)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with pytest.raises(EngineStartFailed, match="too long"):
        await Engine(engine_settings(chat_model, context_size=512)).start()


async def test_two_requests_of_one_name_end_their_connection_only(engine: Engine) -> None:
    """A peer that gives two open requests one id is cut off, and the others go on."""
    path = engine._path
    assert path is not None
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(frame(ENDLESS) * 2)
    while await read_frame(reader) is not None:
        pass
    writer.close()
    await writer.wait_closed()
    assert await text_of(engine, SHORT)
    assert engine.statistics().restarts == 0


async def test_a_closed_engine_says_so(engine: Engine) -> None:
    """Closing ends running requests with its own error, and later ones too; no process is left."""
    running = engine.generate(ENDLESS)
    await anext(running)
    await engine.aclose()
    with pytest.raises(EngineStopped):
        async for _ in running:
            pass
    with pytest.raises(EngineStopped):
        await text_of(engine, SHORT)
    assert engine.pid is None


DEAD_LOOP = """
import threading
from concurrent.futures import ThreadPoolExecutor
from antiphon.engine.worker.process import _end_process_after

ThreadPoolExecutor(1).submit(threading.Event().wait)
_end_process_after(lambda: 1 / 0)
"""


def test_a_process_whose_loop_fails_ends() -> None:
    """The process ends with the reason in its output, though a thread still works, so that its supervisor replaces it."""
    done = subprocess.run(
        [sys.executable, "-c", DEAD_LOOP],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONPATH": SOURCE},
        timeout=100,
    )
    assert done.returncode == 1
    assert b"ZeroDivisionError" in done.stderr


PARENT = """
import asyncio, msgspec, sys
from antiphon.engine import Engine, EngineSettings

async def main():
    engine = Engine(msgspec.json.decode(sys.argv[1], type=EngineSettings, dec_hook=lambda kind, value: kind(value)))
    await engine.start()
    print(engine.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_no_orphan_is_left(chat_model: Path, on_runtime: dict[str, Any]) -> None:
    """When the process that owns an engine is killed with SIGKILL, the engine's process ends too."""
    with subprocess.Popen(  # noqa: ASYNC220 - starting is quick
        [sys.executable, "-c", PARENT, to_json(EngineSettings(model_path=chat_model, context_size=512, **on_runtime))],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": SOURCE},
    ) as parent:
        assert parent.stdout is not None
        pid = int(await asyncio.to_thread(parent.stdout.readline))
        parent.kill()
    await until(lambda: not is_alive(pid))
