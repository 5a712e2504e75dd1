"""Has the C library give freed memory back to the system: large blocks always, small ones when it is asked to.

glibc asks the system for each block above a threshold, and gives the block back when it is freed. But the threshold is
dynamic (mallopt(3), ``M_MMAP_THRESHOLD``): the first freed block of 30 MB raises it to 30 MB, and from then on every thread
that handled a body of that size keeps up to 64 MiB. A threshold that is set once stays as it is.

Small blocks are another matter. glibc keeps them for the thread's next ones, however many they are: a text of 33 MB that
became ten million strings leaves 600 MB. ``return_free_memory`` gives them back (malloc_trim(3)).
"""

import ctypes
import os
import sys
from collections.abc import Callable, Mapping
from typing import Final

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Numbers of the parameters in glibc's ``malloc.h``."""
LARGE_BLOCK: Final = 4 * 1024 * 1024
"""Bytes. Blocks above it are rare: what a step of an engine allocates is smaller."""
MAX_FREE_END: Final = 8 * 1024 * 1024
"""Bytes that stay free at the end of each heap of the C library."""
_OWN_VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


def return_large_blocks(environ: Mapping[str, str] = os.environ) -> bool:
    """Fix the thresholds for this process; call it before the process handles its first large block.

    Returns False, and changes nothing, where the C library is not glibc or its variables in ``environ`` set thresholds.
    """
    mallopt = _of_glibc("mallopt")
    if mallopt is None or any(name in environ for name in _OWN_VARIABLES):
        return False
    return all([mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK), mallopt(_M_TRIM_THRESHOLD, MAX_FREE_END)])


def return_free_memory() -> None:
    """Give all pages back that hold only freed blocks, of every thread. It takes milliseconds, in which others may wait.

    Nothing happens where the C library is not glibc.
    """
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(0)


def _of_glibc(name: str) -> Callable[..., int] | None:
    """Return a function that glibc alone has."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
