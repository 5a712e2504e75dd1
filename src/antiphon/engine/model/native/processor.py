"""What this machine's processor can do, by the operating system's words, and what a library leaves unused of it."""

import functools
import hashlib
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

_LLAMA_NAMES: Final = {
    "avx2": "AVX2", "fma": "FMA", "f16c": "F16C", "avx_vnni": "AVX_VNNI", "avx512f": "AVX512",
    "avx512vbmi": "AVX512_VBMI", "avx512_vnni": "AVX512_VNNI", "avx512_bf16": "AVX512_BF16", "amx_int8": "AMX_INT8",
    "asimddp": "DOTPROD", "i8mm": "MATMUL_INT8", "asimdhp": "FP16_VA", "sve": "SVE", "sme": "SME",
}  # fmt: skip
"""Linux's names of instruction sets, and llama.cpp's names of the code for them."""
_CPU_INFO: Final = Path("/proc/cpuinfo")


@functools.cache
def processor_flags() -> frozenset[str]:
    """Return the operating system's names of the instruction sets here, empty where it does not say."""
    if sys.platform == "darwin":
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.features", "machdep.cpu.leaf7_features"]
        output = subprocess.run(command, capture_output=True, check=False).stdout  # noqa: S603 - a fixed program
        return frozenset(output.decode("ascii", "replace").lower().split())
    try:
        return parse_flags(_CPU_INFO.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return frozenset()


def parse_flags(cpu_info: str) -> frozenset[str]:
    """Return the flags of the first processor in the text of ``/proc/cpuinfo``."""
    line = re.search(r"^(?:flags|Features)\s*:(.*)$", cpu_info, re.MULTILINE)
    return frozenset(line[1].split()) if line else frozenset()


def processor_key() -> str:
    """Return a short name that changes with the kind of processor."""
    described = f"{platform.machine()} {platform.processor()} {sorted(processor_flags())}"
    return hashlib.sha256(described.encode()).hexdigest()[:12]


def unused_sets(used: tuple[str, ...], flags: frozenset[str] | None = None) -> tuple[str, ...]:
    """Return llama.cpp's names of instruction sets that this processor has and a library does not use."""
    here = processor_flags() if flags is None else flags
    return tuple(name for flag, name in _LLAMA_NAMES.items() if flag in here and name not in used)
