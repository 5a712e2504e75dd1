"""What the operating system reports about a run: which processes used the processor, and a server's memory."""

import os
import platform
from pathlib import Path

import msgspec

from antiphon.engine.model.native.processor import processor_flags

_INSTRUCTION_SETS = frozenset({
    "avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8", "asimd", "i8mm", "bf16", "sve",
})  # fmt: skip
"""What decides how fast matrices are multiplied, by Linux's names."""
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Usage(msgspec.Struct, frozen=True):
    """Processor seconds since boot: of the whole machine, stolen by a hypervisor, and of our own processes."""

    busy_s: float
    stolen_s: float
    own_s: float


def usage(own: list[int]) -> Usage:
    """Return the current times; ``own`` are the roots of the process trees that belong to the run."""
    fields = [int(n) / _TICKS_PER_S for n in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    user, nice, system, _idle, _iowait, interrupt, soft_interrupt, stolen = fields
    trees = {pid for root in own for pid in tree(root)}
    return Usage(user + nice + system + interrupt + soft_interrupt, stolen, sum(_cpu_s(pid) for pid in trees))


def others_cores(before: Usage, after: Usage, wall_s: float) -> float:
    """Return how many cores, on average, other processes and the hypervisor used."""
    foreign = (after.busy_s - before.busy_s) - (after.own_s - before.own_s) + (after.stolen_s - before.stolen_s)
    return max(foreign, 0.0) / wall_s


def tree(root: int) -> set[int]:
    """Return ``root`` and all its descendants that are alive."""
    found, todo = set[int](), [root]
    while todo:
        pid = todo.pop()
        found.add(pid)
        try:
            children = [
                int(child)
                for task in Path(f"/proc/{pid}/task").iterdir()
                for child in (task / "children").read_text().split()
            ]
        except OSError:
            continue
        todo += [child for child in children if child not in found]
    return found


def peak_rss_bytes(root: int) -> int:
    """Return the sum of the peak memory of ``root`` and its descendants."""
    return sum(_status_kib(pid, "VmHWM") for pid in tree(root)) * 1024


def rss_bytes(root: int) -> int:
    """Return the resident memory of ``root`` and its descendants."""
    return sum(_status_kib(pid, "VmRSS") for pid in tree(root)) * 1024


def describe() -> dict[str, str | int]:
    """Return what a reader needs to know about this machine, without anything that identifies it."""
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    memory_kib = int(Path("/proc/meminfo").read_text().split()[1])
    return {
        "processor": cpu.partition(": ")[2] or platform.machine(),
        "instruction_sets": " ".join(sorted(processor_flags() & _INSTRUCTION_SETS)),
        "cores": os.cpu_count() or 0,
        "memory_gib": round(memory_kib / 2**20),
        "python": platform.python_version(),
    }


def _cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12]) + int(fields[13]) + int(fields[14])) / _TICKS_PER_S


def _status_kib(pid: int, key: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{key}:")), 0)
