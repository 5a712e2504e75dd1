"""Remembers results for texts, within a number of bytes: clients choose the texts, so a number of entries bounds nothing."""

import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Final, TypeVar, cast

MAX_BYTES: Final = 8 * 1024 * 1024
"""What each function remembers: some thousand usual schemas, or about twenty of the largest."""
_OVERHEAD: Final = 300
"""Approximate bytes of an entry in addition to its texts."""

T = TypeVar("T")


def remembered(function: Callable[..., T]) -> Callable[..., T]:
    """Make ``function``, whose arguments are texts, return the same object again for the same texts.

    At most ``MAX_BYTES`` of arguments and results are kept; those that were used least recently go first. Safe to share between
    threads, which may compute the same result twice. Exceptions are not remembered.
    """
    entries: OrderedDict[tuple[str, ...], tuple[T, int]] = OrderedDict()
    lock = threading.Lock()
    num_bytes = 0

    @wraps(function)
    def once(*texts: str) -> T:
        nonlocal num_bytes
        with lock:
            if texts in entries:
                entries.move_to_end(texts)
                return entries[texts][0]
        result = function(*texts)
        size = _size(texts) + _size(result) + _OVERHEAD
        with lock:
            if texts not in entries and size <= MAX_BYTES:
                entries[texts] = result, size
                num_bytes += size
            while num_bytes > MAX_BYTES:
                num_bytes -= entries.popitem(last=False)[1][1]
        return result

    return once


def _size(value: object) -> int:
    """Return the bytes of texts, alone or in a list or tuple; other values are small."""
    if isinstance(value, list | tuple):
        return sum(map(_size, cast("Iterable[object]", value)))
    return sys.getsizeof(value)
