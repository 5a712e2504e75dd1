"""``python -m benchmarks.gateway``: Antiphon as a gateway beside LiteLLM's proxy, before the same mock upstream, in one run.

Each gateway has one core to itself; the mock upstream and the load generator share another. LiteLLM is measured if an
interpreter that has it is named (``pip install 'litellm[proxy]'`` into an environment of its own).
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
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
import uvloop

from benchmarks.gateway_load import Reply, Target, all_at_once, median, one_by_one, together

_CHUNKS = 64
_CONCURRENCY = 32
_GATEWAY_CORE, _LOAD_CORE = 0, 1


class Measured(msgspec.Struct):
    """What was measured of one gateway. Latencies are medians in milliseconds beyond asking the upstream directly."""

    name: str
    start_s: float = 0.0
    rss_mib: float = 0.0
    added_ms: float = 0.0
    added_first_chunk_ms: float = 0.0
    requests_per_s: float = 0.0
    chunks_per_s: float = 0.0
    failed: int = 0


def main() -> None:
    """Measure what is installed and print a table, then the ratios."""
    options = _options()
    os.sched_setaffinity(0, {_LOAD_CORE})
    if options.streams:
        uvloop.run(_many_streams(options.streams))
        return
    results = uvloop.run(_compare(options))
    print(f"| gateway | {' | '.join(_TITLES.values())} |\n|{'---|' * (len(_TITLES) + 1)}")
    for result in results:
        numbers = (f"{getattr(result, name):.4g}" for name in _TITLES)
        print(f"| {result.name} | {' | '.join(numbers)} |")
    ours, *others = results
    for other in (other for other in others if other.name == "litellm"):
        for result in (ours, *(result for result in others if result.name.startswith("antiphon"))):
            print(f"{result.name}: {_ratios(result, other)}")


_TITLES = {
    "requests_per_s": "requests/s",
    "chunks_per_s": "stream chunks/s",
    "added_ms": "added ms (p50)",
    "added_first_chunk_ms": "added ms to first chunk (p50)",
    "start_s": "start s",
    "rss_mib": "MiB",
    "failed": "failed",
}


def _ratios(ours: Measured, other: Measured) -> str:
    return (
        f"{ours.requests_per_s / other.requests_per_s:.1f}x the requests/s, "
        f"{ours.chunks_per_s / other.chunks_per_s:.1f}x the chunks/s, "
        f"1/{other.added_ms / ours.added_ms:.1f} of the added latency, "
        f"1/{other.added_first_chunk_ms / ours.added_first_chunk_ms:.1f} of that to the first chunk, than {other.name}"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway", description=__doc__)
    parser.add_argument(
        "--litellm", type=Path, metavar="PYTHON", help="interpreter of an environment with litellm[proxy]"
    )
    parser.add_argument("--seconds", type=float, default=5, help="of each load [default: 5]")
    parser.add_argument("--streams", type=int, help="instead: that many concurrent streams, and their memory")
    return parser.parse_args()


async def _compare(options: argparse.Namespace) -> list[Measured]:
    async with _mock() as upstream:
        contenders = [("antiphon", _antiphon(upstream), "mock"), ("antiphon, scripted", _scripted(), "mock")]
        if options.litellm:
            contenders.append(("litellm", _litellm(options.litellm, upstream), "mock"))
        direct = Target(upstream, "mock")
        return [
            await _measure(name, command, Target(_port(), model), direct, options.seconds)
            for name, command, model in contenders
        ]


async def _measure(name: str, command: list[str], target: Target, direct: Target, seconds: float) -> Measured:
    result = Measured(name)
    began = time.monotonic()
    async with _running([*command, "--port", str(target.port)], target.port, _GATEWAY_CORE) as process:
        result.start_s = time.monotonic() - began
        for stream in (False, True):
            await together(target, 4, 1, stream=stream)
        result.added_ms = 1000 * (await _latency(target, stream=False) - await _latency(direct, stream=False))
        result.added_first_chunk_ms = 1000 * (await _latency(target, stream=True) - await _latency(direct, stream=True))
        replies, took = await together(target, _CONCURRENCY, seconds, stream=False)
        result.requests_per_s = len(replies) / took
        result.failed += _failures(replies)
        replies, took = await together(target, _CONCURRENCY, seconds, stream=True)
        result.chunks_per_s = sum(reply.chunks for reply in replies) / took
        result.failed += _failures(replies)
        result.rss_mib = _rss_bytes(process.pid) / 2**20
    return result


async def _latency(target: Target, *, stream: bool) -> float:
    replies = await one_by_one(target, 100, stream=stream)
    return median([reply.first_s if stream else reply.total_s for reply in replies])


def _failures(replies: list[Reply]) -> int:
    return sum(reply.status != 200 for reply in replies)


async def _many_streams(num_streams: int) -> None:
    """Hold many slow streams open at once, and print what was lost and what each one costs in memory."""
    async with _mock("--chunk-delay-ms", "400") as upstream:
        target = Target(_port(), "mock")
        command = [*_antiphon(upstream), "--port", str(target.port)]
        async with _running(command, target.port, _GATEWAY_CORE) as process:
            await together(target, 4, 1, stream=False)
            before = _rss_bytes(process.pid)
            streams = asyncio.ensure_future(all_at_once(target, num_streams))
            peak = before
            while not streams.done():
                await asyncio.sleep(0.5)
                peak = max(peak, _rss_bytes(process.pid))
            replies = streams.result()
    whole = [r for r in replies if isinstance(r, Reply) and r.status == 200 and r.chunks == _CHUNKS + 2]
    print(
        f"{num_streams} concurrent streams: {num_streams - len(whole)} lost; {median([r.total_s for r in whole]):.1f} s each"
    )
    print(
        f"memory: {before / 2**20:.0f} MiB before, {peak / 2**20:.0f} at the peak, {(peak - before) / num_streams / 1024:.1f} KiB per stream"
    )


def _antiphon(upstream: int) -> list[str]:
    return _serve(
        f'[[gateway.upstreams]]\nname = "mock"\nbase_url = "http://127.0.0.1:{upstream}/v1"\nmodels = [{{ id = "mock" }}]\n'
    )


def _scripted() -> list[str]:
    """The same without an upstream: what the server itself costs."""
    script = Path(tempfile.mkdtemp(prefix="antiphon-bench-")) / "script.toml"
    words = " word" * _CHUNKS
    script.write_text(f'models = ["mock"]\nembedding_models = []\n[[replies]]\ntext = "{words}"\n')
    return _serve(f'[gateway]\nscript = "{script}"\n')


def _serve(settings: str) -> list[str]:
    config = Path(tempfile.mkdtemp(prefix="antiphon-bench-")) / "antiphon.toml"
    config.write_text('[server]\nlog_level = "warning"\nmax_requests = 100000\n' + settings)
    os.environ["ANTIPHON_HOME"] = str(config.parent)
    options = ["--model", "none", "--embedding-model", "none"]
    return [sys.executable, "-m", "antiphon", "serve", "--config", str(config), *options]


def _litellm(python: Path, upstream: int) -> list[str]:
    config = Path(tempfile.mkdtemp(prefix="litellm-bench-")) / "config.yaml"
    config.write_text(
        "model_list:\n  - model_name: mock\n    litellm_params:\n      model: openai/mock\n"
        f"      api_base: http://127.0.0.1:{upstream}/v1\n      api_key: sk-mock\n"
    )
    # Antiphon runs without keys here as well.
    os.environ["LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY"] = "true"
    return [str(python.parent / "litellm"), "--config", str(config), "--num_workers", "1", "--host", "127.0.0.1"]


@asynccontextmanager
async def _mock(*options: str) -> AsyncGenerator[int]:
    port = _port()
    command = [sys.executable, "-m", "benchmarks.mock_upstream", str(port), "--chunks", str(_CHUNKS), *options]
    async with _running(command, port, _LOAD_CORE):
        yield port


@asynccontextmanager
async def _running(command: list[str], port: int, core: int) -> AsyncGenerator[subprocess.Popen[bytes]]:
    """Run a server on one core from when it answers until the block ends."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(  # noqa: ASYNC220 - before anything is measured
            ["taskset", "-c", str(core), *command], stdout=log, stderr=subprocess.STDOUT, start_new_session=True
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
            if reply.status == 200:
                return
        await asyncio.sleep(0.1)
    raise RuntimeError(f"{process.args!r} did not come up")


def _rss_bytes(pid: int) -> int:
    """Return the resident memory of a process and its children."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return pages * os.sysconf("SC_PAGESIZE") + sum(_rss_bytes(int(child)) for child in children)


def _port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


if __name__ == "__main__":
    main()
