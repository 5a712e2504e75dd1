"""Which copy of a model file is served: as it came, or converted once to a type that this processor computes faster.

Some quantised types have no fast kernels in llama.cpp, and many processors multiply bf16 faster than f16. ``auto`` tries
the near-lossless types for a file of such a type and takes the fastest by processor time, if it is at least ``WORTH``
times as fast as the file (``WORTH_EMBEDDING`` for an embedding model) and close enough to it: a mean KL divergence of at
most ``MOST_DIVERGENCE`` nats per token, or vectors at most ``MOST_DISTANCE`` away. Copies and measurements are kept in
``cache_directory``.
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
from antiphon.engine.model.llama import LlamaError, Model
from antiphon.engine.model.quantise import Measurement
from antiphon.engine.settings import EngineSettings

WORTH: Final = 1.2
WORTH_EMBEDDING: Final = 1.1
"""Less, as the copy of a plain type is no larger."""
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
    """The file to load, its weight format, and why it was chosen, with what was measured."""

    path: Path
    type: str
    reason: str


class _Record(msgspec.Struct, frozen=True):
    type: str
    reason: str


def prepare(settings: EngineSettings) -> Served:
    """Return what to serve, converting and measuring where that was not done before: this can take half a minute.

    Raises:
        EngineStartFailed: a type that was asked for could not be made.
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
                _copy(source, directory, settings.weight_format), settings.weight_format, "as the settings say"
            )
        return _chosen(source, directory)


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


def _chosen(source: Path, directory: Path) -> Served:
    record_path = directory / f"{_name(source)}.json"
    record = _recorded(record_path)
    if record is None:
        record = _decide(source, directory)
        record_path.write_bytes(msgspec.json.encode(record))
    path = source if record.type == "as-is" else _copy(source, directory, record.type)
    return Served(path, record.type, record.reason)


def _recorded(path: Path) -> _Record | None:
    # One that was cut short, as on a full disk, is worth no more than none: it is measured again.
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Record)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def _decide(source: Path, directory: Path) -> _Record:
    best = _Record("as-is", "")
    words: list[str] = []
    original = _measure(source, source)
    limit = original.cpu_s / (WORTH_EMBEDDING if original.is_embedding else WORTH)
    for file_type in _CANDIDATES:
        copy = _copy(source, directory, file_type)
        measured = _measure(copy, source)
        loss = "1 - cosine {:.5f}" if measured.is_embedding else "KL divergence {:.4f} nats"
        words.append(
            f"{file_type}: {original.cpu_s / measured.cpu_s:.1f} times as fast, {measured.size_bytes / 1e6:.0f} MB "
            f"instead of {original.size_bytes / 1e6:.0f}, {loss.format(measured.divergence)}"
        )
        most = MOST_DISTANCE if measured.is_embedding else MOST_DIVERGENCE
        if measured.cpu_s < limit and measured.divergence <= most:
            best, limit = _Record(file_type, ""), measured.cpu_s
    for file_type in _CANDIDATES:
        if file_type != best.type:
            _copy_path(source, directory, file_type).unlink()
    return _Record(best.type, "; ".join(words))


def _copy(source: Path, directory: Path, file_type: str) -> Path:
    target = _copy_path(source, directory, file_type)
    if not target.exists():
        unfinished = target.with_suffix(".unfinished")
        _run("convert", str(source), str(unfinished), file_type)
        unfinished.rename(target)
    return target


def _copy_path(source: Path, directory: Path, file_type: str) -> Path:
    return directory / f"{_name(source)}.{file_type}.gguf"


def _measure(path: Path, reference: Path) -> Measurement:
    return msgspec.json.decode(_run("measure", str(path), str(reference)), type=Measurement)


def _run(*arguments: str) -> bytes:
    command = [sys.executable, "-m", "antiphon.engine.model.quantise", *arguments]
    done = subprocess.run(command, capture_output=True, check=False, env=child_environment())  # noqa: S603 - our own module
    if done.returncode:
        last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-3:]
        raise EngineStartFailed(
            f"the weight format of {arguments[1]!r} could not be prepared ({arguments[0]}): {'; '.join(last)}",
            hint="Serve the file unchanged: set weight_format = 'as-is'.",
        )
    return done.stdout


def _name(source: Path) -> str:
    """Return a name that changes when the file does."""
    status = source.stat()
    identity = f"{source.resolve()} {status.st_size} {status.st_mtime_ns}"
    return f"{source.stem}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
