"""The public signatures as two type checkers see them."""

import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RIGHT, WRONG = HERE / "public_signatures.py", HERE / "wrong_uses.py"
CHECKERS = {
    "pyright": ["basedpyright", "--level", "error", "--pythonpath", sys.executable],
    "mypy": ["mypy", "--strict", "--no-error-summary", "--cache-dir", os.devnull, "--follow-imports", "silent"],
}
ERROR_LINE = re.compile(r":(\d+):(?:\d+)?.*error")


@cache
def run(checker: str) -> subprocess.CompletedProcess[str]:
    program, *options = CHECKERS[checker]
    environment = {**os.environ, "MYPYPATH": str(ROOT / "src"), "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-m", program, *options, str(RIGHT), str(WRONG)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)


def errors(checker: str, file: Path) -> tuple[set[int], str]:
    done = run(checker)
    lines = [line for line in done.stdout.splitlines() if file.name in line]
    # The mistakes make it fail; without one it did not run.
    assert done.returncode == 1, done.stdout + done.stderr
    return {int(match[1]) for line in lines if (match := ERROR_LINE.search(line))}, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("checker", CHECKERS)
def test_what_users_write_has_the_types_they_expect(checker: str) -> None:
    """Strictly: without an Any that came in unseen."""
    found, output = errors(checker, RIGHT)
    assert not found, output


@pytest.mark.slow
@pytest.mark.parametrize("checker", CHECKERS)
def test_mistakes_are_found_before_they_run(checker: str) -> None:
    """Each marked line has an error, and no other line has one."""
    expected = {number for number, line in enumerate(WRONG.read_text().splitlines(), 1) if "# wrong" in line}
    found, output = errors(checker, WRONG)
    assert found == expected, output
