"""What the exit status of a child process says, in words. Pure."""

import signal
from typing import Final

_MEANINGS: Final = {
    signal.SIGILL: "an instruction that this processor does not have, or that was used wrongly",
    signal.SIGSEGV: "a wrong memory access in native code",
    signal.SIGBUS: "a file in memory that was cut short, or a full disk or shared memory",
    signal.SIGFPE: "an arithmetic fault in native code",
    signal.SIGABRT: "native code gave up: a failed check, or no memory",
    signal.SIGKILL: "killed from outside, most often because memory ran out",
}


def describe(code: int) -> str:
    """Return "was killed by SIGILL (an instruction that ...)" or "exited with status 1"."""
    if code >= 0:
        return f"exited with status {code}"
    try:
        number = signal.Signals(-code)
    except ValueError:
        return f"was killed by signal {-code}"
    meaning = _MEANINGS.get(number)
    return f"was killed by {number.name}{f' ({meaning})' if meaning else ''}"
