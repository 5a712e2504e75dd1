"""What the compiler of this machine makes of AMX's tile configuration, seen on a processor with AMX or without."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from antiphon.engine.model.native.compiler import BuildError, Compiler, extra_flags, find_compiler

PROGRAM = Path(__file__).with_name("tile_config.cpp")
COLUMNS = b"".join((64 - i).to_bytes(2, "little") for i in range(8)) + bytes(16)
ROWS = bytes(16 - i for i in range(8)) + bytes(8)
EXPECTED = bytes([1]) + bytes(15) + COLUMNS + ROWS


@pytest.fixture(scope="module")
def compiler() -> Compiler:
    """The compiler of this machine, where it can make code for AMX."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        pytest.skip("AMX is an extension of x86-64, and the program reads Linux's signal context")
    try:
        found = find_compiler()
    except BuildError as error:
        pytest.skip(f"no compiler: {error}")
    check = [found.program, "-mamx-tile", "-x", "c++", "-fsyntax-only", "-"]
    if subprocess.run(check, input=b"", capture_output=True, check=False).returncode:
        pytest.skip(f"{found.name} makes no code for AMX")
    return found


def configuration(compiler: Compiler, flags: tuple[str, ...], folder: Path) -> bytes:
    """Return the 64 bytes that ``ldtilecfg`` reads when the program is compiled with these flags."""
    program = folder / "tile_config"
    subprocess.run([compiler.program, "-O3", *flags, "-mamx-tile", "-o", program, PROGRAM], check=True)
    return bytes.fromhex(subprocess.run([program], capture_output=True, check=True, text=True).stdout)


def test_the_build_flags_keep_the_whole_tile_configuration(compiler: Compiler, tmp_path: Path) -> None:
    """Rows and columns of all eight tiles reach the instruction."""
    assert configuration(compiler, extra_flags(compiler), tmp_path) == EXPECTED


def test_only_compilers_that_need_the_flags_get_them(compiler: Compiler, tmp_path: Path) -> None:
    """Without them, a compiler on the list drops rows and columns, and one that is not on it keeps them."""
    is_kept = configuration(compiler, (), tmp_path) == EXPECTED
    assert is_kept == (not extra_flags(compiler))
