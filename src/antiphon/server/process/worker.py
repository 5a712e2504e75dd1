"""One API process of several: ``python -m antiphon.server.process.worker``, started by ``worker_pool``.

It reads its orders from standard input, answers on the port that it inherits, with engines that its parent owns, and prints a
line when it is ready. It ends with its parent: then its standard input ends.
"""

import asyncio
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

from antiphon.allocator import return_large_blocks
from antiphon.errors import AntiphonError
from antiphon.models.progress import ignore
from antiphon.server.configuration import load_configuration
from antiphon.server.logs import configure_logs
from antiphon.server.process.http_server import collect_seldom, new_event_loop, serve
from antiphon.server.process.server_parts import ServerParts, fetch_models


def main() -> int:
    """Serve until a signal or the parent's end; 1 with a line on standard error if that cannot begin."""
    return_large_blocks()
    order: dict[str, Any] = json.loads(sys.stdin.buffer.readline())
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(_work(order))
    except AntiphonError as error:
        print(f"antiphon: {error.message}" + (f" - {error.hint}" if error.hint else ""), file=sys.stderr)  # noqa: T201
        return 1
    return 0


async def _work(order: dict[str, Any]) -> None:
    file = order["config_file"]
    configuration = load_configuration(file=None if file is None else Path(file), options=order["options"])
    configure_logs(configuration.server.log_level, configuration.server.log_format)
    files = fetch_models(configuration, ignore)
    parts = await ServerParts.open(configuration, files, Path(order["status_folder"]))

    async def start() -> None:
        await parts.start()
        collect_seldom()
        sys.stdout.write(json.dumps({"open": parts.accounts.is_open}) + "\n")
        sys.stdout.flush()

    stop = asyncio.Event()
    _when_orphaned(stop)
    try:
        with socket.socket(fileno=os.dup(order["listener"])) as listener:
            await serve(parts.service, listener, start, stop=stop)
    finally:
        await parts.aclose()


def _when_orphaned(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    descriptor = sys.stdin.fileno()

    def look() -> None:
        if not os.read(descriptor, 4096):
            loop.remove_reader(descriptor)
            stop.set()

    loop.add_reader(descriptor, look)


if __name__ == "__main__":
    sys.exit(main())
