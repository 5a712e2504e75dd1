"""The engine's process: ``python -m antiphon.engine SOCKET [WAY]``, settings as JSON in the first line of standard input.

Standard output carries ``Report`` frames to the supervisor. Standard input stays open for as long as the supervisor
lives; its end ends this process at once.
"""

import ctypes
import os
import signal
import sys
import threading
from pathlib import Path

import msgspec

from antiphon.allocator import return_large_blocks
from antiphon.engine.settings import from_json
from antiphon.engine.startup import Way

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Serve one model until the supervisor is gone."""
    _die_with_parent()
    return_large_blocks()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # Ctrl-C and systemd reach the whole group; the supervisor decides
    reports = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # native code that prints must not disturb the reports
    line = _read_line()
    threading.Thread(target=_exit_at_end_of_input, daemon=True).start()
    settings = from_json(line)
    # Loaded late: its import takes native libraries that read the environment.
    from antiphon.engine.worker.process import run  # noqa: PLC0415

    run(settings, Path(sys.argv[1]), reports, msgspec.json.decode(sys.argv[2], type=Way) if sys.argv[2:] else Way())


def _die_with_parent() -> None:
    """On Linux, ask the kernel to kill this process when the thread that started it dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _exit_at_end_of_input() -> None:
    """Leave without ceremony once the supervisor is gone; also where the kernel sends no signal."""
    while os.read(0, 4096):
        pass
    os._exit(0)


def _read_line() -> bytes:
    """Read the settings past Python's own buffer, whose lock the thread above would hold for ever."""
    line = b""
    while not line.endswith(b"\n"):
        more = os.read(0, 65536)
        if not more:
            os._exit(0)
        line += more
    return line


if __name__ == "__main__":
    main()
