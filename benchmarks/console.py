"""``python -m benchmarks.console``: what the console costs a server, in processor time per request.

Servers with the same script differ in one thing: the console is turned off, it is there and nobody looks, a page is open (one
listener of the live feed), contents are captured. Each round sends the same number of requests to each of them in turn, so
that a machine that is busy for a while is so for all. With ``--before`` an older source tree is measured in the same rounds.
"""

import argparse
import asyncio
import os
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import uvloop

from benchmarks.arguments import at_least_one, existing_folder
from benchmarks.gateway import free_port, running_on
from benchmarks.gateway_load import Target, median

_SCRIPT = 'models = ["mock"]\nembedding_models = []\n[[replies]]\ntext = "{words}"\n'
_WORDS = 32
_SETTINGS = {
    "off": "[console]\nenabled = false\n",
    "closed": "",
    "open": "",
    "capturing": "[console]\ncapture = true\n",
}
_SERVER_CORE, _LOAD_CORE = 0, 1


class Contender(msgspec.Struct):
    """A server, and the microseconds of processor time per request of each round."""

    name: str
    port: int
    pid: int
    microseconds: list[float] = []


def main() -> None:
    """Measure, and print the medians and their ratios to the server without the console."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.console", description=__doc__)
    parser.add_argument("--requests", type=at_least_one, default=1000, help="per server and round [default: 1000]")
    parser.add_argument("--rounds", type=at_least_one, default=9, help="[default: 9]")
    parser.add_argument("--before", type=existing_folder, help="the folder src of an older tree to compare with")
    options = parser.parse_args()
    os.sched_setaffinity(0, {_LOAD_CORE})
    contenders = uvloop.run(_measure(options))
    base = contenders[0]
    print("| console | microseconds of processor time per request | ratio | lowest and highest ratio of a round |")
    print("|---|---|---|---|")
    for each in contenders:
        ratios = [one / other for one, other in zip(each.microseconds, base.microseconds, strict=True)]
        print(
            f"| {each.name} | {median(each.microseconds):.0f} | {median(ratios):.3f} | "
            f"{min(ratios):.3f} to {max(ratios):.3f} |"
        )


async def _measure(options: argparse.Namespace) -> list[Contender]:
    async with AsyncExitStack() as stack:
        contenders = [await _start(stack, name, None) for name in _SETTINGS]
        if options.before is not None:
            contenders.append(await _start(stack, "before", options.before))
        listener = asyncio.ensure_future(_listen(next(each.port for each in contenders if each.name == "open")))
        for number in range(options.rounds + 1):
            for each in contenders:
                before = _cpu_ns(each.pid)
                await _load(each.port, options.requests)
                if number:  # the first round warms up
                    each.microseconds.append((_cpu_ns(each.pid) - before) / options.requests / 1000)
        listener.cancel()
        return contenders


async def _start(stack: AsyncExitStack, name: str, source: Path | None) -> Contender:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="antiphon-bench-")))
    (folder / "script.toml").write_text(_SCRIPT.format(words=" word" * _WORDS))
    config = folder / "antiphon.toml"
    settings = _SETTINGS.get(name, "")
    config.write_text(f'[server]\nlog_level = "warning"\n[gateway]\nscript = "{folder / "script.toml"}"\n{settings}')
    port = free_port()
    command = [
        *("env", f"ANTIPHON_HOME={folder}", *([f"PYTHONPATH={source}"] if source else [])),
        *(sys.executable, "-m", "antiphon", "serve", "--config", str(config), "--port", str(port)),
        *("--model", "none", "--embedding-model", "none"),
    ]
    process = await stack.enter_async_context(running_on(command, port, _SERVER_CORE))
    return Contender(name, port, process.pid)


async def _load(port: int, num_requests: int) -> None:
    target = Target(port, "mock")
    connection = await target.connect()
    request = target.request(stream=False)
    for _ in range(num_requests):
        await connection.ask(request)
    connection.close()


async def _listen(port: int) -> None:
    """Read the feed as an open page does."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /console/api/feed HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    while await reader.read(65_536):
        pass


def _cpu_ns(pid: int) -> int:
    """Return the processor time of a process with all its threads, in nanoseconds."""
    return sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir())


if __name__ == "__main__":
    main()
