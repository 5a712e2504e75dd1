"""The C++ compiler of this machine, and the flags that llama.cpp needs with it."""

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from typing import Final, Literal

import msgspec

_NAMES: Final = ("c++", "g++", "clang++")
_FIXED_GCC: Final = {12: (12, 4), 13: (13, 3)}
"""The first release of each series in which GCC keeps the stores of the AMX tile configuration; from 14 on, all do."""
_NO_DEAD_STORE_ELIMINATION: Final = ("-fno-tree-dse", "-fno-dse")


class BuildError(Exception):
    """A native build is not possible, or failed; ``hint`` says what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class Compiler(msgspec.Struct, frozen=True):
    """A C++ compiler: its program, family and version."""

    program: str
    family: Literal["gcc", "clang", "other"]
    version: tuple[int, ...]

    @property
    def name(self) -> str:
        """How messages call it."""
        return f"{self.family} {'.'.join(map(str, self.version))}" if self.version else self.program


def find_compiler(environ: Mapping[str, str] = os.environ) -> Compiler:
    """Return the compiler that ``CXX`` names, or the first on the search path.

    Raises:
        BuildError: there is none.
    """
    wanted = [environ["CXX"]] if environ.get("CXX") else list(_NAMES)
    program = next(filter(None, (shutil.which(name, path=environ.get("PATH")) for name in wanted)), None)
    if program is None:
        raise BuildError(
            f"there is no C++ compiler ({', '.join(wanted)})",
            "Install one (Debian: g++; Fedora: gcc-c++; macOS: xcode-select --install), or use the prebuilt library.",
        )
    shown = subprocess.run([program, "--version"], capture_output=True, check=False, env=dict(environ))  # noqa: S603 - the user's compiler
    return parse_version(program, shown.stdout.decode("utf-8", "replace"))


def parse_version(program: str, shown: str) -> Compiler:
    """Return the compiler that prints ``shown`` for ``--version``."""
    first = shown.partition("\n")[0]
    family = "clang" if "clang" in first else "gcc" if re.search(r"g\+\+|GCC|gcc|c\+\+", first) else "other"
    numbers = re.search(r"version (\d+(?:\.\d+)*)", first) if family == "clang" else None
    numbers = numbers or re.search(r"\) (\d+(?:\.\d+)+)", first) or re.search(r"(\d+\.\d+(?:\.\d+)*)", first)
    return Compiler(program, family, tuple(map(int, numbers[1].split("."))) if numbers else ())


def extra_flags(compiler: Compiler, machine: str | None = None) -> tuple[str, ...]:
    """Return the C++ flags without which this compiler miscompiles llama.cpp for this kind of machine.

    GCC before 12.4, 13.3 and 14 takes 8 of the 64 bytes that ``ldtilecfg`` reads for all, and drops the stores of the rest:
    the tiles of AMX are then unconfigured, and the first instruction on them ends the process with SIGILL.
    """
    is_x86 = (platform.machine() if machine is None else machine) in {"x86_64", "AMD64"}
    if compiler.family != "gcc" or not is_x86 or not compiler.version:
        return ()
    major = compiler.version[0]
    fixed = _FIXED_GCC.get(major, (14,))
    return _NO_DEAD_STORE_ELIMINATION if compiler.version < fixed else ()
