"""How much memory a machine has left, for files that the kernel would write."""

import os
from pathlib import Path

import pytest

from antiphon.engine.machine import free_memory, left_in_group

MEMINFO = "MemTotal: 9000 kB\nMemFree: 1 kB\nMemAvailable: 5000 kB\n"


def limit(group: Path, most: str, used: int, inactive: int = 0) -> None:
    """Write the files of a control group."""
    group.mkdir(parents=True, exist_ok=True)
    stat = f"anon 300\ninactive_file {inactive}\nslab 1\n"
    for name, text in (("max", f"{most}\n"), ("current", f"{used}\n"), ("stat", stat)):
        (group / f"memory.{name}").write_text(text)


def test_inactive_file_pages_leave_room_in_a_container(tmp_path: Path) -> None:
    """The room is the limit less what is used; inactive pages of files are given back when memory is wanted."""
    assert left_in_group(tmp_path) is None
    limit(tmp_path, "1000", 900, 500)
    assert left_in_group(tmp_path) == 600
    limit(tmp_path, "max", 900)
    assert left_in_group(tmp_path) is None
    limit(tmp_path, "1000", 1400)
    assert left_in_group(tmp_path) == 0


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ({}, 5000 * 1024),
        ({"": ("max", 1)}, 5000 * 1024),
        ({"": ("999000", 9000)}, 990_000),
        ({"": ("99000000", 9000)}, 5000 * 1024),
        ({"system.slice/antiphon.service": ("7000", 1000)}, 6000),
        ({"system.slice": ("5000", 1000), "system.slice/antiphon.service": ("7000", 1000)}, 4000),
        ({"other.slice": ("5000", 1000)}, 5000 * 1024),
    ],
)
def test_the_smallest_limit_counts(tmp_path: Path, groups: dict[str, tuple[str, int]], expected: int) -> None:
    """What is free is the least of the machine's memory and the room in this process's control groups."""
    proc, cgroups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text(MEMINFO)
    (proc / "self" / "cgroup").write_text("1:name=systemd:/x\n0::/system.slice/antiphon.service\n")
    for group, (most, used) in groups.items():
        limit(cgroups / group, most, used)
    assert free_memory(cgroups, proc) == expected


def test_half_of_the_memory_is_taken_where_the_system_does_not_say(tmp_path: Path) -> None:
    """Without /proc, half of the physical memory counts as free."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert free_memory(tmp_path, tmp_path) == physical // 2


def test_this_machine_s_memory_is_read() -> None:
    """On Linux the kernel's own figure is an upper bound of what is free."""
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        pytest.skip("a system without /proc")
    total = next(int(line.split()[1]) for line in meminfo.read_text().splitlines() if line.startswith("MemTotal:"))
    assert 0 < free_memory() <= total * 1024
