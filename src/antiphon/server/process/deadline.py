"""Ends the process a fixed time after a signal asked for it, whatever threads and native code still do."""

import faulthandler
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable

from antiphon.server.logs import log

END_S = 4.5
"""How long the process may take to end beyond its grace time."""
_WITHOUT_PYTHON_S = 0.4
_is_set = threading.Event()


def end_within(seconds: float, children: Callable[[], Iterable[int]] = tuple) -> None:
    """Start the countdown; the first call counts. Does nothing visible if the process ends in time.

    Otherwise it says so in the log, kills ``children`` (process ids) and leaves with status 1, skipping whatever waits for the
    threads that hang. Should even Python not run by then, because native code keeps its lock, a timer of ``faulthandler``
    prints where each thread is and ends the process.
    """
    if _is_set.is_set():
        return
    _is_set.set()
    threading.Thread(target=_count_down, args=(seconds, children), name="deadline", daemon=True).start()
    faulthandler.dump_traceback_later(seconds + _WITHOUT_PYTHON_S, exit=True)


def _count_down(seconds: float, children: Callable[[], Iterable[int]]) -> None:
    time.sleep(seconds)
    others = [thread.name for thread in threading.enumerate() if thread is not threading.current_thread()]
    log.error("the server did not end in time; it is ended now", seconds=round(seconds, 1), threads=others)
    for pid in children():
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    os._exit(1)
