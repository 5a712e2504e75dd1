"""The progress of a fetch."""

from collections.abc import Callable
from typing import Literal

import msgspec

Phase = Literal["wait", "download", "unpack", "convert", "verify"]
"""``wait``: another process is fetching the same model."""


class ProgressEvent(msgspec.Struct, frozen=True):
    """``done_bytes`` of ``total_bytes`` of ``file`` have passed ``phase``; the latter is None while it is unknown.

    The phase ``convert`` counts the bytes of the weights that are read, ``wait`` nothing.
    """

    file: str
    done_bytes: int
    total_bytes: int | None
    phase: Phase


Progress = Callable[[ProgressEvent], None]


def ignore(event: ProgressEvent) -> None:
    """Take a progress event and do nothing."""
