"""Which copy of a model file is served: the file itself, or one converted once to a type that this processor computes faster.

Some quantised types have no fast kernels in llama.cpp, and many processors multiply bf16 faster than f16. ``auto`` tries
the near-lossless types for a file of such a type and takes the fastest by processor time, if it is at least ``WORTH``
times as fast as the file (``WORTH_EMBEDDING`` for an embedding model) and close enough to it: a mean KL divergence of at
most ``MOST_DIVERGENCE`` nats per token, or vectors at most ``MOST_DISTANCE`` away. A type whose process dies while it is
made or measured is left out. Copies and measurements are kept in ``cache_directory``; a measurement holds for one library
on one kind of processor.
"""

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Final

import msgspec
from filelock import FileLock

from antiphon.engine.child_process import child_environment
from antiphon.engine.errors import EngineStartFailed
from antiphon.engine.exit_status import describe
from antiphon.engine.model.llama import LlamaError, Model
from antiphon.engine.model.measurement import Measurement
from antiphon.engine.model.native.choose import library_key
from antiphon.engine.model.native.library import Library
from antiphon.engine.model.native.selftest import encode_candidate
from antiphon.engine.settings import EngineSettings

WORTH: Final = 1.2
WORTH_EMBEDDING: Final = 1.1
"""Less, because the copy of a plain type is not larger."""
MOST_DIVERGENCE: Final = 0.01
MOST_DISTANCE: Final = 0.001
"""1 - cosine, of an embedding model's vectors."""
_MOST_BYTES: Final = 1_000_000_000
"""Larger files stay as they are: their copies would take long to make, and much memory."""
_SLOW_TYPES: Final = {"3": "Q4_1", "8": "Q5_0", "9": "Q5_1"}
"""llama.cpp's numbers of file types."""
_PLAIN_TYPES: Final = {"0": "F32", "1": "F16"}
_CANDIDATES: Final = ("bf16", "q8_0")


class Served(msgspec.Struct, frozen=True):
    """The file to load, the type of its weights, and why it was chosen, with what was measured."""

    path: Path
    type: str
    reason: str


class _Record(msgspec.Struct, frozen=True):
    type: str
    reason: str


class _ChildFailedError(Exception):
    """A process that converts or measures failed; the message says how, and whether it was killed."""


def prepare(settings: EngineSettings, library: Library, *, extra_buffers: bool = True) -> Served:
    """Return what to serve, converting and measuring where that was not done before: this can take half a minute.

    Raises:
        EngineStartFailed: the copy that the settings demand could not be made.
    """
    source, directory = settings.model_path, settings.cache_directory
    if settings.weight_format == "as-is" or directory is None or not source.is_file():
        return Served(source, "as-is", "as the settings say")
    if settings.weight_format == "auto":
        reason = _why_not(source)
        if reason:
            return Served(source, "as-is", reason)
    directory.mkdir(parents=True, exist_ok=True)
    with FileLock(directory / f"{_name(source)}.lock"):
        if settings.weight_format != "auto":
            return Served(
                _forced(source, directory, settings.weight_format), settings.weight_format, "as the settings say"
            )
        return _Choice(source, directory, library, extra_buffers=extra_buffers).served()


def _why_not(source: Path) -> str:
    try:
        model = Model(source, vocabulary_only=True)
    except LlamaError:
        return "the file cannot be read"
    # A plain type is only worth a second look where all the time goes into products of large batches.
    slow_types = _SLOW_TYPES | (_PLAIN_TYPES if model.is_embedding else {})
    if model.metadata.get("general.file_type") not in slow_types:
        return "the file's type has fast kernels, or is not known"
    if source.stat().st_size > _MOST_BYTES:
        return f"files above {_MOST_BYTES} bytes are not converted"
    return ""


class _Choice:
    """The choice of a type for one file, by measuring with one library."""

    def __init__(self, source: Path, directory: Path, library: Library, *, extra_buffers: bool) -> None:
        self._source = source
        self._directory = directory
        self._library = library
        self._extra_buffers = extra_buffers

    def served(self) -> Served:
        suffix = "" if self._extra_buffers else ".plain"
        record_path = self._directory / f"{_name(self._source)}.{library_key(self._library.candidate)}{suffix}.json"
        record = _recorded(record_path)
        if record is None:
            record, is_complete = self._decide()
            if is_complete:
                record_path.write_bytes(msgspec.json.encode(record))
        path = self._source if record.type == "as-is" else _copy(self._source, self._directory, record.type)
        return Served(path, record.type, record.reason)

    def _decide(self) -> tuple[_Record, bool]:
        """Return the choice, and whether it may be kept: not so if the file itself could not be measured."""
        try:
            original = self._measure(self._source)
        except _ChildFailedError as error:
            return _Record("as-is", f"not measured: {error}"), False
        best = _Record("as-is", "")
        words: list[str] = []
        limit = original.cpu_s / (WORTH_EMBEDDING if original.is_embedding else WORTH)
        for file_type in _CANDIDATES:
            try:
                measured = self._measure(_copy(self._source, self._directory, file_type))
            except _ChildFailedError as error:
                words.append(f"{file_type}: left out, {error}")
                continue
            words.append(_compared(file_type, measured, original))
            most = MOST_DISTANCE if measured.is_embedding else MOST_DIVERGENCE
            if measured.cpu_s < limit and measured.divergence <= most:
                best, limit = _Record(file_type, ""), measured.cpu_s
        for file_type in _CANDIDATES:
            if file_type != best.type:
                _copy_path(self._source, self._directory, file_type).unlink(missing_ok=True)
        return _Record(best.type, "; ".join(words)), True

    def _measure(self, path: Path) -> Measurement:
        library = encode_candidate(self._library.candidate)
        output = _run("measure", str(path), str(self._source), library, str(self._extra_buffers))
        return msgspec.json.decode(output, type=Measurement)


def _compared(file_type: str, measured: Measurement, original: Measurement) -> str:
    loss = "1 - cosine {:.5f}" if measured.is_embedding else "KL divergence {:.4f} nats"
    return (
        f"{file_type}: {original.cpu_s / measured.cpu_s:.1f} times as fast, {measured.size_bytes / 1e6:.0f} MB "
        f"instead of {original.size_bytes / 1e6:.0f}, {loss.format(measured.divergence)}"
    )


def _recorded(path: Path) -> _Record | None:
    # A record that was cut short, as on a full disk, counts as none: the file is measured again.
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Record)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def _forced(source: Path, directory: Path, file_type: str) -> Path:
    try:
        return _copy(source, directory, file_type)
    except _ChildFailedError as error:
        raise EngineStartFailed(
            f"{str(source)!r} could not be converted to {file_type}: {error}",
            hint="Serve the file unchanged: set weight_format = 'as-is'.",
        ) from error


def _copy(source: Path, directory: Path, file_type: str) -> Path:
    target = _copy_path(source, directory, file_type)
    if not target.exists():
        unfinished = target.with_suffix(".unfinished")
        _run("convert", str(source), str(unfinished), file_type)
        unfinished.rename(target)
    return target


def _copy_path(source: Path, directory: Path, file_type: str) -> Path:
    return directory / f"{_name(source)}.{file_type}.gguf"


def _run(*arguments: str) -> bytes:
    command = [sys.executable, "-m", "antiphon.engine.model.measurement", *arguments]
    done = subprocess.run(command, capture_output=True, check=False, env=child_environment())  # noqa: S603 - our own module
    if done.returncode:
        last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-3:]
        doing = "converting" if arguments[0] == "convert" else "measuring"
        raise _ChildFailedError(
            f"the process {describe(done.returncode)} while {doing} it{': ' if last else ''}{'; '.join(last)}"
        )
    return done.stdout


def _name(source: Path) -> str:
    """Return a name that changes when the file does."""
    status = source.stat()
    identity = f"{source.resolve()} {status.st_size} {status.st_mtime_ns}"
    return f"{source.stem}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
