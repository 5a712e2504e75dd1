"""The memory of this process and of the machine."""

import os
from pathlib import Path


def free_memory() -> int:
    """Return bytes that a new allocation can use without swapping; a container's limit counts."""
    left = left_in_container(Path("/sys/fs/cgroup"))
    return _available() if left is None else min(_available(), left)


def left_in_container(group: Path) -> int | None:
    """Return bytes below the limit of a control group (version 2), None where there is no limit.

    Pages of files that were read lately count as used, but those that nobody works on are given back when memory is wanted.
    """
    limit, used = _read_int(group / "memory.max"), _read_int(group / "memory.current")
    if limit is None or used is None:
        return None
    return max(0, limit - used + _read_entry(group / "memory.stat", "inactive_file"))


def resident_bytes() -> int:
    """Return the memory this process has in RAM, 0 where the system does not say it in /proc."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _available() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _read_entry(path: Path, name: str) -> int:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name} ")), 0)


def _read_int(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
