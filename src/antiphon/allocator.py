"""Has the C library give large blocks of memory back to the system when they are freed.

glibc asks the system for each block above a threshold, and gives the block back when it is freed. But the threshold is
dynamic (mallopt(3), ``M_MMAP_THRESHOLD``): the first freed block of 30 MB raises it to 30 MB, and from then on every thread
that handled a body of that size keeps up to 64 MiB. A threshold that is set once stays as it is.
"""

import ctypes
import os
import sys
from collections.abc import Mapping
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
    if sys.platform != "linux" or any(name in environ for name in _OWN_VARIABLES):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is None:
        return False
    return all([mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK), mallopt(_M_TRIM_THRESHOLD, MAX_FREE_END)])
