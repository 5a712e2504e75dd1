"""Uploads one large file to a server in this process and prints its memory: ``python -m tests.server.uploading MEBIBYTES``."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
from tests.serving import running

import antiphon
from antiphon.backends.scripted.backend import ScriptedBackend
from antiphon.backends.scripted.script import Script
from antiphon.files import FileSettings

MIB = 1 << 20
BOUNDARY = "boundary"
HEADERS = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}


def form(content: Iterator[bytes], filename: str = "big.txt", purpose: str = "user_data") -> Iterator[bytes]:
    """Yield a form whose file comes before its purpose, as ``curl`` may send it."""
    disposition = "Content-Disposition: form-data; name"
    yield f'--{BOUNDARY}\r\n{disposition}="file"; filename="{filename}"\r\n\r\n'.encode()
    yield from content
    yield f'\r\n--{BOUNDARY}\r\n{disposition}="purpose"\r\n\r\n{purpose}\r\n--{BOUNDARY}--\r\n'.encode()


def memory_mib() -> float:
    """Return the most memory that this process has held so far."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


def upload_in_a_process(num_mebibytes: int) -> tuple[float, float]:
    """Return the memory before and after, in MiB."""
    source = Path(antiphon.__file__).parents[1]
    environ = {**os.environ, "PYTHONPATH": f"{source}{os.pathsep}{Path(__file__).parents[2]}"}
    run = subprocess.run(
        [sys.executable, "-m", "tests.server.uploading", str(num_mebibytes)],
        capture_output=True, text=True, check=False, env=environ,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    before, after = map(float, run.stdout.split())
    return before, after


def main(num_mebibytes: int) -> None:
    settings = FileSettings(max_file_bytes=(num_mebibytes + 1) * MIB, min_free_bytes=0)
    with (
        tempfile.TemporaryDirectory() as folder,
        running(ScriptedBackend(Script(models=("m",))), Path(folder), files=settings) as up,
        httpx.Client(timeout=600) as client,
    ):
        small = client.post(f"{up.url}/files", content=form(iter([b"x"])), headers=HEADERS)
        small.raise_for_status()
        before = memory_mib()
        piece = bytes(MIB)
        sent = client.post(f"{up.url}/files", content=form(piece for _ in range(num_mebibytes)), headers=HEADERS)
        sent.raise_for_status()
        assert sent.json()["bytes"] == num_mebibytes * MIB
        with client.stream("GET", f"{up.url}/files/{sent.json()['id']}/content") as download:
            assert sum(len(part) for part in download.iter_bytes()) == num_mebibytes * MIB
        print(before, memory_mib())  # noqa: T201 - said to the test


if __name__ == "__main__":
    main(int(sys.argv[1]))
