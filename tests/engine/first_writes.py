"""Whether the system still has to provide memory for arrays, by the page faults of writing to them."""

import ctypes
import mmap
import sys
from collections.abc import Sequence
from typing import Any

import pytest
from numpy.typing import NDArray

Arrays = Sequence[NDArray[Any]]


def give_back(arrays: Arrays) -> None:
    """Give the memory of all whole pages back, as if nothing had been written yet: they are zeros from now on."""
    if sys.platform != "linux":
        pytest.skip("madvise gives memory back at once on Linux only")
    libc = ctypes.CDLL(None, use_errno=True)
    for array in arrays:
        start = -(-array.ctypes.data // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (array.ctypes.data + array.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
        assert end > start
        assert libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED) == 0


def num_faults(arrays: Arrays, part: slice) -> int:
    """Write to a part of each array and return how often the system had to provide memory."""
    from resource import RUSAGE_THREAD, getrusage  # noqa: PLC0415 - Linux alone counts for one thread

    before = getrusage(RUSAGE_THREAD).ru_minflt
    for array in arrays:
        array[part] = 0
    return getrusage(RUSAGE_THREAD).ru_minflt - before
