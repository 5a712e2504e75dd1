"""The server as users start it: a process of its own, on the default models."""

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

from antiphon.config import home_directory

START_TIMEOUT_S = 240


class ServerProcess(NamedTuple):
    """A running ``antiphon serve``; ``log`` is the file with what it says on standard error."""

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


@contextmanager
def serving(home: Path, *options: str, **environ: str) -> Generator[ServerProcess]:
    """Run ``antiphon serve --port 0`` with ``options`` until the block ends, then end it as Ctrl-C does."""
    log = home / "server.log"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("ANTIPHON_", "OPENAI_"))}
    environment |= {"ANTIPHON_HOME": str(home), "PYTHONUNBUFFERED": "1", **environ}
    with log.open("a") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "antiphon", "serve", "--port", "0", *options],
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
            process.wait(30)
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
