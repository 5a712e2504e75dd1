"""Freed memory returns to the system, also after blocks of tens of megabytes."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import antiphon.engine.__main__ as engine
from antiphon.allocator import return_large_blocks
from antiphon.cli import serve
from antiphon.server.process import worker

MIB = 1024 * 1024
FREE_LARGE_BLOCKS = """
import sys, threading
from pathlib import Path
from antiphon.allocator import return_large_blocks

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

def work():
    # A body of 30 MB in a thread, then a list of its values, then a small text that stays.
    for _ in range(2):
        body = b"x" * 30_000_000
        parts = [b"y" * 1_000_000 for _ in range(30)]
        del body, parts

if sys.argv[1] == "fixed":
    assert return_large_blocks()
before = resident()
turns = [threading.Event() for _ in range(3)]
over = threading.Event()

def run(turn, done):
    turn.wait()
    work()
    done.set()
    over.wait()

done = [threading.Event() for _ in turns]
threads = [threading.Thread(target=run, args=pair) for pair in zip(turns, done)]
for thread in threads:
    thread.start()
for turn, end in zip(turns, done):
    turn.set()
    end.wait()
print(resident() - before)
over.set()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux") or not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_threads_keep_little_of_large_blocks() -> None:
    """With thresholds that stay, threads that are done with large bodies hold almost nothing; by default tens of MiB each."""

    def held(mode: str) -> int:
        environ = {"PYTHONPATH": str(Path(__file__).parents[1] / "src"), "PYTHONMALLOC": "pymalloc"}
        command = [sys.executable, "-c", FREE_LARGE_BLOCKS, mode]
        return int(subprocess.run(command, env=environ, check=True, capture_output=True, text=True).stdout)

    default, fixed = held("default"), held("fixed")
    assert fixed <= 3 * 10 * MIB
    assert default >= 2 * fixed


@pytest.mark.parametrize("name", ["MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"])
def test_thresholds_of_the_user_are_kept(name: str) -> None:
    """Who sets the C library's own variables has decided."""
    assert not return_large_blocks({name: "1"})


class CalledError(Exception):
    """The process came to the call."""


@pytest.mark.parametrize("module", [serve, worker, engine], ids=["server", "worker", "engine"])
def test_processes_that_handle_large_requests_fix_the_thresholds(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server, its workers and its engines do so before anything else that needs memory."""

    def call() -> None:
        raise CalledError

    monkeypatch.setattr(module, "return_large_blocks", call)
    monkeypatch.setattr(engine, "_die_with_parent", lambda: None)
    with pytest.raises(CalledError):
        module.serve() if module is serve else module.main()
