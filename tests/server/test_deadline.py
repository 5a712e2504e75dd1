"""A signal ends the server's process in a bounded time, whatever hangs in it."""

import signal
import subprocess
import sys
from pathlib import Path

import httpx2 as httpx
import pytest
from tests.waiting import PATIENCE_S

from antiphon.server.process.deadline import END_S

PROGRAM = Path(__file__).parent / "stuck_server.py"


@pytest.mark.slow
@pytest.mark.parametrize("what", ["closing", "pool thread", "busy pool thread", "large body thread", "plain thread"])
def test_a_signal_ends_the_process_whatever_hangs(what: str) -> None:
    """Threads that never return and parts that never close are left behind; the log says so, and the status is 1."""
    process = subprocess.Popen(
        [sys.executable, PROGRAM, what], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert httpx.get(f"{url}/models").status_code == 200
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    assert process.returncode == 1
    assert "the server did not end in time" in errors


@pytest.mark.slow
def test_without_a_hang_the_process_ends_at_once() -> None:
    """The deadline is not waited for."""
    process = subprocess.Popen([sys.executable, PROGRAM, "nothing"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    assert process.returncode == 0


def test_the_deadline_is_within_five_seconds_of_the_grace_time() -> None:
    """What the documentation promises."""
    assert END_S <= 5
