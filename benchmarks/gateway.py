"""``python -m benchmarks.gateway``: Antiphon as a gateway and LiteLLM's proxy, in front of the same mock upstream, in one run.

Each gateway has one core to itself; the mock upstream and the load generator share another. LiteLLM is measured if an
interpreter with it is named (``pip install 'litellm[proxy]'`` into an environment of its own).
"""

import argparse
import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import uvloop

from benchmarks.arguments import at_least_one
from benchmarks.gateway_load import Reply, Target, all_at_once, median, one_by_one, together

_CHUNKS = 64
_CONCURRENCY = 32
_GATEWAY_CORE, _LOAD_CORE = 0, 1
_OK = 200
T = TypeVar("T")


Sample = dict[str, float]
"""The measurements of one round of one gateway, by the names in ``_TITLES``."""


class Gateway(msgspec.Struct):
    """A gateway that is up."""

    name: str
    target: Target
    pid: int
    start_s: float
    samples: list[Sample] = []

    def median(self, name: str) -> float:
        return self.start_s if name == "start_s" else median([sample[name] for sample in self.samples])


def main() -> None:
    """Measure the installed gateways and print a table, then the ratios."""
    options = _options()
    os.sched_setaffinity(0, {_LOAD_CORE})
    if options.streams:
        uvloop.run(_ended_in_order(_many_streams(options.streams)))
        return
    gateways = uvloop.run(_ended_in_order(_compare(options)))
    names = [name for name in _TITLES if name == "start_s" or name in gateways[0].samples[0]]
    print(f"| gateway | {' | '.join(_TITLES[name] for name in names)} |\n|{'---|' * (len(names) + 1)}")
    for gateway in gateways:
        print(f"| {gateway.name} | {' | '.join(f'{gateway.median(name):.4g}' for name in names)} |")
    for other in (gateway for gateway in gateways if gateway.name == "litellm"):
        for ours in (gateway for gateway in gateways if gateway is not other):
            print(f"{ours.name} against {other.name}: {_ratios(ours, other, names)}")


async def _ended_in_order(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work``; SIGTERM ends it and its servers, as Ctrl-C does."""
    task = asyncio.ensure_future(work)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await task


_TITLES = {
    "requests_per_s": "requests/s",
    "chunks_per_s": "stream chunks/s",
    "requests_per_cpu_s": "requests per CPU s",
    "chunks_per_cpu_s": "chunks per CPU s",
    "added_ms": "added ms (p50)",
    "added_first_chunk_ms": "added ms to first chunk (p50)",
    "added_slept_ms": "the same after 20 ms of sleep",
    "start_s": "start s",
    "mib": "MiB",
    "failed": "failed",
}


def _ratios(ours: Gateway, other: Gateway, names: Sequence[str]) -> str:
    more = [name for name in names if "_per_" in name]
    times = [f"{ours.median(name) / other.median(name):.1f}x the {_TITLES[name]}" for name in more]
    less = [name for name in names if name.startswith("added_")]
    parts = [f"1/{other.median(name) / ours.median(name):.1f} of the {_TITLES[name]}" for name in less]
    return ", ".join(times + parts)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway", description=__doc__)
    parser.add_argument(
        "--litellm", type=Path, metavar="PYTHON", help="interpreter of an environment with litellm[proxy]"
    )
    parser.add_argument("--seconds", type=float, default=3, help="of each load [default: 3]")
    parser.add_argument("--rounds", type=at_least_one, default=3, help="through all gateways in turn [default: 3]")
    parser.add_argument("--only", choices=("latency", "load"), help="measure one of the two [default: both]")
    parser.add_argument("--streams", type=at_least_one, help="instead: that many concurrent streams, and their memory")
    return parser.parse_args()


async def _compare(options: argparse.Namespace) -> list[Gateway]:
    async with AsyncExitStack() as stack:
        mocks = {"mock": (), "short": ("--chunks", "1"), "slow": ("--chunks", "4", "--chunk-delay-ms", "5")}
        upstreams = {name: await stack.enter_async_context(_mock(*given)) for name, given in mocks.items()}
        commands = {"antiphon": _antiphon(upstreams), "antiphon, scripted": _scripted()}
        if options.litellm:
            commands["litellm"] = _litellm(options.litellm, upstreams)
        gateways: list[Gateway] = []
        for name, command in commands.items():
            target = Target(free_port(), "mock")
            began = time.monotonic()
            running = running_on([*command, "--port", str(target.port)], target.port, _GATEWAY_CORE)
            process = await stack.enter_async_context(running)
            gateways.append(Gateway(name, target, process.pid, time.monotonic() - began))
        for gateway in gateways * (1 + options.rounds):
            gateway.samples.append(await _sample(gateway, upstreams, options))
        for gateway in gateways:
            gateway.samples.pop(0)  # the first round warms up
        return gateways


async def _sample(gateway: Gateway, upstreams: dict[str, int], options: argparse.Namespace) -> Sample:
    sample: Sample = {}
    if options.only != "load":
        sample |= await _added(gateway.target, upstreams)
    if options.only != "latency":
        sample |= await _loaded(gateway, options.seconds)
    return sample | {"mib": _rss_bytes(gateway.pid) / 2**20}


async def _added(target: Target, upstreams: dict[str, int]) -> Sample:
    """Measure latency with nothing else going on: medians in milliseconds beyond asking the upstream directly.

    The mock upstream shares its core with this process, so long streams would delay the first chunk. Streams here have one
    chunk and are sent one after another; or they have a few slow chunks between which the machine sleeps, so that every
    program's code must return to the processor's caches.
    """
    added_s = await _latency(target) - await _latency(Target(upstreams["mock"], "mock"))
    first_s, slept_s = [
        await _first_chunk(Target(target.port, name)) - await _first_chunk(Target(upstreams[name], name))
        for name in ("short", "slow")
    ]
    return {"added_ms": 1000 * added_s, "added_first_chunk_ms": 1000 * first_s, "added_slept_ms": 1000 * slept_s}


async def _loaded(gateway: Gateway, seconds: float) -> Sample:
    """Keep requests in flight, whole ones and streams.

    ``..._per_cpu_s`` divide by the gateway's own CPU time: the throughput of a core of its own. Unlike throughput by the
    clock, they also hold on a busy machine.
    """
    target = gateway.target
    before = _cpu_s(gateway.pid)
    plain, took_s = await together(target, _CONCURRENCY, seconds, stream=False)
    between = _cpu_s(gateway.pid)
    streams, streams_took_s = await together(target, _CONCURRENCY, seconds, stream=True)
    after = _cpu_s(gateway.pid)
    num_chunks = sum(reply.chunks for reply in streams)
    return {
        "requests_per_s": len(plain) / took_s,
        "chunks_per_s": num_chunks / streams_took_s,
        "requests_per_cpu_s": len(plain) / (between - before),
        "chunks_per_cpu_s": num_chunks / (after - between),
        "failed": sum(reply.status != _OK for reply in (*plain, *streams)),
    }


async def _latency(target: Target) -> float:
    return median([reply.total_s for reply in await one_by_one(target, 100, stream=False)])


async def _first_chunk(target: Target) -> float:
    return median([reply.first_s for reply in await one_by_one(target, 50, stream=True)])


async def _many_streams(num_streams: int) -> None:
    """Hold many slow streams open at once; print how many were lost and the memory of each."""
    async with _mock("--chunk-delay-ms", "400") as upstream:
        target = Target(free_port(), "mock")
        command = [*_antiphon({"mock": upstream}), "--port", str(target.port)]
        async with running_on(command, target.port, _GATEWAY_CORE) as process:
            await together(target, 4, 1, stream=False)
            before = _rss_bytes(process.pid)
            streams = asyncio.ensure_future(all_at_once(target, num_streams))
            peak = before
            while not streams.done():
                await asyncio.sleep(0.5)
                peak = max(peak, _rss_bytes(process.pid))
            replies = streams.result()
    whole = [r for r in replies if isinstance(r, Reply) and r.status == _OK and r.chunks == _CHUNKS + 2]
    print(
        f"{num_streams} concurrent streams: {num_streams - len(whole)} lost; {median([r.total_s for r in whole]):.1f} s each"
    )
    print(
        f"memory: {before / 2**20:.0f} MiB before, {peak / 2**20:.0f} at the peak, {(peak - before) / num_streams / 1024:.1f} KiB per stream"
    )


def _antiphon(upstreams: dict[str, int]) -> list[str]:
    return _serve(
        "".join(
            f'[[gateway.upstreams]]\nname = "{name}"\nbase_url = "http://127.0.0.1:{port}/v1"\n'
            f'models = [{{ id = "{name}" }}]\n'
            for name, port in upstreams.items()
        )
    )


def _scripted() -> list[str]:
    """The same without an upstream: the cost of the server alone."""
    script = Path(tempfile.mkdtemp(prefix="antiphon-bench-")) / "script.toml"
    words = " word" * _CHUNKS
    script.write_text(f'models = ["mock", "short", "slow"]\nembedding_models = []\n[[replies]]\ntext = "{words}"\n')
    return _serve(f'[gateway]\nscript = "{script}"\n')


def _serve(settings: str) -> list[str]:
    config = Path(tempfile.mkdtemp(prefix="antiphon-bench-")) / "antiphon.toml"
    config.write_text('[server]\nlog_level = "warning"\nmax_requests = 100000\n' + settings)
    os.environ["ANTIPHON_HOME"] = str(config.parent)
    options = ["--model", "none", "--embedding-model", "none"]
    return [sys.executable, "-m", "antiphon", "serve", "--config", str(config), *options]


def _litellm(python: Path, upstreams: dict[str, int]) -> list[str]:
    config = Path(tempfile.mkdtemp(prefix="litellm-bench-")) / "config.yaml"
    models = "".join(
        f"  - model_name: {name}\n    litellm_params:\n      model: openai/{name}\n"
        f"      api_base: http://127.0.0.1:{port}/v1\n      api_key: sk-mock\n"
        for name, port in upstreams.items()
    )
    config.write_text("model_list:\n" + models)
    # Antiphon runs without keys here as well.
    os.environ["LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY"] = "true"
    return [str(python.parent / "litellm"), "--config", str(config), "--num_workers", "1", "--host", "127.0.0.1"]


@asynccontextmanager
async def _mock(*options: str) -> AsyncGenerator[int]:
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.mock_upstream", str(port), "--chunks", str(_CHUNKS), *options]
    async with running_on(command, port, _LOAD_CORE):
        yield port


@asynccontextmanager
async def running_on(command: list[str], port: int, core: int) -> AsyncGenerator[subprocess.Popen[bytes]]:
    """Run a server on one core; the block begins when it answers."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(  # noqa: ASYNC220 - before anything is measured
            # A bench that is killed takes its servers with it, too.
            ["setpriv", "--pdeathsig", "TERM", "taskset", "-c", str(core), *command],
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            await _answers(process, port)
            yield process
        except RuntimeError:
            log.seek(0)
            sys.stderr.buffer.write(log.read()[-3000:])
            raise
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait()


async def _answers(process: subprocess.Popen[bytes], port: int) -> None:
    for _ in range(1200):
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        with suppress(OSError, ConnectionError):
            connection = await Target(port, "mock").connect()
            reply = await connection.ask(Target(port, "mock").request(stream=False))
            connection.close()
            if reply.status == _OK:
                return
        await asyncio.sleep(0.1)
    raise RuntimeError(f"{process.args!r} did not come up")


def _cpu_s(pid: int) -> float:
    """Return the CPU time that a process has used, of all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rss_bytes(pid: int) -> int:
    """Return the resident memory of a process and its children."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return pages * os.sysconf("SC_PAGESIZE") + sum(_rss_bytes(int(child)) for child in children)


def free_port() -> int:
    """Return a port that is free."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


if __name__ == "__main__":
    main()
