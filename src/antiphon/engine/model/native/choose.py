"""Chooses the library that serves a model: the fastest of those that pass the self-test on this machine.

Each library is tested once per processor, with llama.cpp's extra buffer types (repacked weights, AMX) and, where it fails,
without them. Results are kept in a folder, a file for each library and kind of processor; a failure only if it would happen again.
"""

import contextlib
import hashlib
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec
from filelock import FileLock

from antiphon.engine.child_process import child_environment
from antiphon.engine.exit_status import describe
from antiphon.engine.model.native.library import Candidate
from antiphon.engine.model.native.processor import processor_key
from antiphon.engine.model.native.selftest import VERSION, Result, encode_candidate
from antiphon.engine.model.native.selftest_model import TYPES, write

TIMEOUT_S: Final = 60.0
"""Longest time of a test, which takes half a second."""
_WORTH: Final = 1.05
"""A library must be measured to be so many times as fast to go before an earlier one in the list."""
_TYPES_OF_FILES: Final = {0: "f16", 1: "f16", 2: "q4_0", 7: "q8_0", 32: "bf16"}
"""llama.cpp's numbers of file types, and which test covers them; others are like q4_0."""
_CONVERTED: Final = frozenset({3, 8, 9})
"""Q4_1, Q5_0, Q5_1: served as bf16 or Q8_0, whichever is faster."""

_LASTING: Final = frozenset({signal.SIGILL, signal.SIGSEGV, signal.SIGFPE})
"""Deaths that the same library on the same processor would die again; others may come of a lack of memory."""


class Examined(msgspec.Struct, frozen=True, kw_only=True):
    """What the self-test of a library said. ``problem`` is empty if it passed; ``notes`` say what failed before that."""

    candidate: Candidate
    extra_buffers: bool = True
    result: Result | None = None
    problem: str = ""
    notes: str = ""

    def seconds(self, file_type: int | None) -> float:
        """Return the processor seconds of the work that is most like serving a file of llama.cpp's ``file_type``."""
        assert self.result is not None
        if file_type in _CONVERTED:
            return min(self.result.seconds["bf16"], self.result.seconds["q8_0"])
        return self.result.seconds[_TYPES_OF_FILES.get(file_type if file_type is not None else -1, "q4_0")]


class Chosen(msgspec.Struct, frozen=True, kw_only=True):
    """The library to serve with, why, and what every library's test said."""

    best: Examined
    reason: str
    tested: tuple[Examined, ...]


def choose(candidates: Sequence[Candidate], directory: Path, file_type: int | None) -> Chosen | str:
    """Return the fastest library that passes, testing those that have no result in ``directory`` yet, or why there is none."""
    tested = examine(candidates, directory)
    best = choose_tested(tested, file_type)
    if best is None:
        return "; ".join(one.problem for one in tested) or "no llama.cpp is installed"
    others = [one for one in tested if one is not best]
    reason = "; ".join([*([best.notes] if best.notes else []), *(_compared(best, one, file_type) for one in others)])
    return Chosen(best=best, reason=reason or "the only one here", tested=tested)


def choose_tested(tested: Sequence[Examined], file_type: int | None) -> Examined | None:
    """Return the fastest that passed for a type of file, an earlier one where the gain is small; None if none passed."""
    best: Examined | None = None
    for one in tested:
        if one.result is not None and (best is None or one.seconds(file_type) * _WORTH < best.seconds(file_type)):
            best = one
    return best


def examine(candidates: Iterable[Candidate], directory: Path, *, again: bool = False) -> tuple[Examined, ...]:
    """Return the result of every library's self-test, from ``directory`` or, if it has none or with ``again``, made now."""
    directory.mkdir(parents=True, exist_ok=True)
    with FileLock(directory / "tests.lock"), _Models() as models:
        return tuple(_test_once(candidate, directory, models, again=again) for candidate in candidates)


class _Models(contextlib.AbstractContextManager["_Models"]):
    """The models of the self-test, written when the first library needs them."""

    def __init__(self) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def folder(self) -> Path:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="antiphon-self-test-")
            for weight_type in TYPES:
                write(Path(self._folder.name) / f"{weight_type}.gguf", weight_type)
        return Path(self._folder.name)

    def __exit__(self, *_error: object) -> None:
        if self._folder is not None:
            self._folder.cleanup()


def _test_once(candidate: Candidate, directory: Path, models: _Models, *, again: bool) -> Examined:
    record = directory / f"{library_key(candidate)}.json"
    with contextlib.suppress(OSError, msgspec.DecodeError):
        if not again:
            return msgspec.json.decode(record.read_bytes(), type=Examined, dec_hook=lambda kind, value: kind(value))
    tested, is_lasting = _test(candidate, models.folder())
    if is_lasting:
        record.write_bytes(msgspec.json.encode(tested, enc_hook=str))
    else:
        record.unlink(missing_ok=True)
    return tested


def library_key(candidate: Candidate) -> str:
    """Return a name that changes with the library's file, with the processor, and with what is tested."""
    status = candidate.path.stat()
    parts = (VERSION, candidate.path, candidate.version, status.st_size, status.st_mtime_ns, processor_key())
    return f"{candidate.kind}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:12]}"


class _Failure(msgspec.Struct, frozen=True):
    """How a self-test failed, and whether it would fail again: not so if memory or another package was missing."""

    reason: str
    is_lasting: bool


def _test(candidate: Candidate, folder: Path) -> tuple[Examined, bool]:
    """Return the result of a library's self-test, and whether it may be kept."""
    result = _run(candidate, folder, extra_buffers=True)
    if isinstance(result, Result):
        return Examined(candidate=candidate, result=result), True
    plain = _run(candidate, folder, extra_buffers=False)
    if isinstance(plain, Result):
        notes = f"without extra buffer types: {result.reason}"
        return Examined(candidate=candidate, extra_buffers=False, result=plain, notes=notes), result.is_lasting
    return Examined(candidate=candidate, problem=result.reason), result.is_lasting and plain.is_lasting


def _run(candidate: Candidate, folder: Path, *, extra_buffers: bool) -> Result | _Failure:
    """Return what the test in a process of its own printed, or how it ended."""
    module = "antiphon.engine.model.native.selftest"
    command = [sys.executable, "-m", module, encode_candidate(candidate), str(folder), str(extra_buffers)]
    try:
        done = subprocess.run(  # noqa: S603 - our own module
            command, capture_output=True, check=False, env=child_environment(), timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        reason = f"{candidate.name} did not finish its self-test within {TIMEOUT_S:.0f} s"
        return _Failure(reason, is_lasting=False)
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    for line in _after("result ", lines):
        return msgspec.json.decode(line, type=Result)
    phase = next(iter(list(_after("phase ", lines))[::-1]), "starting")
    last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
    if done.returncode == 1 and last:
        return _Failure(last[0], is_lasting=False)
    reason = f"{candidate.name} failed its self-test: the process {describe(done.returncode)} while {phase}"
    return _Failure(reason, is_lasting=-done.returncode in _LASTING)


def _after(word: str, lines: list[str]) -> Iterator[str]:
    return (line.removeprefix(word) for line in lines if line.startswith(word))


def _compared(best: Examined, other: Examined, file_type: int | None) -> str:
    if other.result is None:
        return other.problem
    ratio = other.seconds(file_type) / best.seconds(file_type)
    return f"{ratio:.1f} times as fast as {other.candidate.name} in the self-test"


def file_type(path: Path) -> int | None:
    """Return llama.cpp's number of a GGUF file's type from its first megabyte, None where it is not there."""
    with path.open("rb") as file:
        head = file.read(2**20)
    match = re.search(rb"general\.file_type\x04\x00\x00\x00(.{4})", head, re.DOTALL)
    return int.from_bytes(match[1], "little") if match else None
