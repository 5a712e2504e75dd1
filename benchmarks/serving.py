"""Starts and stops the servers that are measured."""

import asyncio
import os
import signal
import socket
import time
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path

import msgspec
from openai import AsyncOpenAI

from benchmarks.client import Client
from benchmarks.contenders import Antiphon, Contender, Launch, Task
from benchmarks.machine import tree

START_TIMEOUT_S = 600
"""vLLM compiles the model's graph at each start: up to three minutes on two cores."""
_POLL_S = 0.2


class Server(msgspec.Struct, frozen=True):
    """A running contender: its client, the root of its processes, and how long it took to be ready."""

    name: str
    client: Client
    pid: int
    start_s: float


@asynccontextmanager
async def running(contender: Contender, task: Task, model: Path, threads: int, logs: Path) -> AsyncGenerator[Server]:
    """Serve ``model`` until the block ends."""

    def launch(port: int) -> Launch:
        return contender.launch(task, model, port, threads)

    async with running_launch(contender.name, launch, logs / f"{contender.name}-{task}.log") as server:
        yield server


@asynccontextmanager
async def asking_defaults(threads: int, folder: Path) -> AsyncGenerator[tuple[AsyncOpenAI, Server]]:
    """Serve Antiphon's default models until the block ends, with a home below ``folder``; yield a client that never retries."""
    contender = Antiphon([], folder)

    def launch(port: int) -> Launch:
        return contender.launch_defaults(port, threads)

    async with running_launch(contender.name, launch, folder / "antiphon.log") as server:
        url = f"http://127.0.0.1:{server.client.port}/v1"
        async with AsyncOpenAI(base_url=url, api_key="bench", timeout=3600, max_retries=0) as client:
            yield client, server


@asynccontextmanager
async def running_launch(name: str, launched: Callable[[int], Launch], log: Path) -> AsyncGenerator[Server]:
    """Run a command until the block ends. Raises ``RuntimeError`` with the end of its log if it does not start."""
    port = _free_port()
    launch = launched(port)
    began = time.monotonic()
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *launch.command,
            env=os.environ | launch.environment,
            stdout=out,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        model = await _ready(process, port, log, began)
        async with aclosing(Client(port, model)) as client:
            yield Server(name, client, process.pid, time.monotonic() - began)
    finally:
        await _end(process)


async def _ready(process: Process, port: int, log: Path, began: float) -> str:
    """Wait until the server lists its model, and return the model's name."""
    probe = Client(port, "")
    while time.monotonic() - began < START_TIMEOUT_S and process.returncode is None:
        with suppress(OSError, asyncio.IncompleteReadError):
            status, body = await probe.get("/v1/models")
            health, _ = await probe.get("/health")
            if status == 200 and health in {200, 404}:  # 404: has no such route
                return msgspec.json.decode(body)["data"][0]["id"]
        await asyncio.sleep(_POLL_S)
    said = await asyncio.to_thread(log.read_text, errors="replace")
    raise RuntimeError(f"it did not come up:\n{said[-3000:]}")


async def _end(process: Process) -> None:
    family = tree(process.pid)
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)
    try:
        async with asyncio.timeout(10):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
    for pid in family:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]
