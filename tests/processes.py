"""The server as users start it: a separate process, on the default models."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.waiting import PATIENCE_S

from antiphon.config import home_directory

START_TIMEOUT_S = 600


class ServerProcess(NamedTuple):
    """A running ``antiphon serve``; ``log`` is the file with its standard error."""

    url: str
    pid: int
    process: "subprocess.Popen[str]"
    log: Path


def home_with_models(home: Path) -> Path:
    """Make ``home`` one whose models are those of the user (fetched once), and nothing else is."""
    models = home_directory() / "models"
    models.mkdir(parents=True, exist_ok=True)
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "models").exists():
        (home / "models").symlink_to(models, target_is_directory=True)
    return home


def children(server: ServerProcess, module: bytes) -> list[int]:
    """The child processes of a server that run ``module``, oldest first; those that are just ending are left out."""
    listed = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    return sorted(int(pid) for pid in listed if module in _command_line(int(pid)))


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


@contextmanager
def serving(home: Path, *options: str, python: str = sys.executable, **environ: str) -> Generator[ServerProcess]:
    """Run ``antiphon serve --port 0`` with ``options`` until the block ends, then end it as Ctrl-C does.

    ``python`` is the interpreter of another environment whose installation is to run.
    """
    log = home / "server.log"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("ANTIPHON_", "OPENAI_"))}
    environment |= {"ANTIPHON_HOME": str(home), "PYTHONUNBUFFERED": "1", **environ}
    with log.open("a") as errors:
        process = subprocess.Popen(
            [python, "-m", "antiphon", "serve", "--port", "0", *options],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    try:
        url = _wait_until_ready(process, log)
        yield ServerProcess(url, process.pid, process, log)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(PATIENCE_S)
        finally:
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()


def _wait_until_ready(process: "subprocess.Popen[str]", log: Path) -> str:
    assert process.stdout is not None
    overdue = threading.Timer(START_TIMEOUT_S, process.kill)
    overdue.start()
    try:
        for line in process.stdout:
            if found := re.search(r"OPENAI_BASE_URL=(\S+)", line):
                return found[1]
    finally:
        overdue.cancel()
    raise AssertionError(f"the server did not start:\n{log.read_text()[-4000:]}")
