"""The memory of this process and of the machine."""

import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_PROC = Path("/proc")


def free_memory(cgroups: Path = _CGROUPS, proc: Path = _PROC) -> int:
    """Return bytes that a new allocation can use without swapping; the limits of containers and services count.

    ``cgroups`` is where control groups (version 2) are mounted, ``proc`` where the kernel describes processes.
    """
    limits = [left_in_group(group) for group in _own_groups(cgroups, proc)]
    return min([_available(proc), *(left for left in limits if left is not None)])


def left_in_group(group: Path) -> int | None:
    """Return bytes below the limit of a control group, None where there is no limit.

    Cached pages of files count as used, but the kernel gives back those that are inactive when memory is wanted.
    """
    limit, used = _read_int(group / "memory.max"), _read_int(group / "memory.current")
    if limit is None or used is None:
        return None
    return max(0, limit - used + _read_entry(group / "memory.stat", "inactive_file"))


def resident_bytes() -> int:
    """Return the memory this process has in RAM, 0 on a system without /proc."""
    try:
        pages = int((_PROC / "self" / "statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _own_groups(cgroups: Path, proc: Path) -> list[Path]:
    """Return this process's control group and those above it; in a container, the root is the container's own."""
    try:
        lines = (proc / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return [cgroups]
    own = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    group = cgroups / own
    return [group, *(parent for parent in group.parents if parent.is_relative_to(cgroups))]


def _available(proc: Path) -> int:
    try:
        lines = (proc / "meminfo").read_text(encoding="ascii").splitlines()
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
