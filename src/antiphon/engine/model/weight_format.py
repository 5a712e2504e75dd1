"""Which runtime serves a model file, and from which copy of it: the file itself, or one converted once to another type.

OpenVINO needs a copy in its own format. llama.cpp has no fast kernels for some quantised types, and many processors
multiply bf16 faster than f16. ``auto`` measures the candidates, each a runtime with a type, by processor time over a prompt
and steps of 1, 8 and 16 rows. It takes the fastest, if it is at least ``WORTH`` times as fast as the file itself in
llama.cpp (``WORTH_EMBEDDING`` for an embedding model) and close enough to the file's weights computed in f16: a mean KL
divergence of at most ``MOST_DIVERGENCE`` nats per token, or vectors at most ``MOST_DISTANCE`` away. A candidate whose
process dies while it is made or measured is left out. Copies and measurements are kept in ``cache_directory``; a
measurement holds for one version of each runtime on one kind of processor.
"""

import glob
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final, get_args

import msgspec
from filelock import FileLock

from antiphon.engine.child_process import child_environment
from antiphon.engine.errors import EngineStartFailed
from antiphon.engine.exit_status import describe
from antiphon.engine.model.base import Runtime
from antiphon.engine.model.file_header import MOST_BYTES, PLAIN_TYPES, FileHeader, read_file_header, why_not_openvino
from antiphon.engine.model.measurement import Measurement
from antiphon.engine.model.native.choose import library_key
from antiphon.engine.model.native.library import Library
from antiphon.engine.model.native.processor import processor_flags, processor_key
from antiphon.engine.model.native.selftest import encode_candidate
from antiphon.engine.model.openvino.library import GRAPH_VERSION, version
from antiphon.engine.model.openvino.support import weight_types
from antiphon.engine.settings import EngineSettings, RuntimeChoice

ENVIRONMENT_VARIABLE: Final = "ANTIPHON_ENGINE_RUNTIME"
"""Replaces the runtime ``auto``."""
WORTH: Final = 1.2
WORTH_EMBEDDING: Final = 1.1
"""Less, because the copy of a plain type is not larger."""
MOST_DIVERGENCE: Final = 0.01
FETCH_AGAIN: Final = "The file is damaged or not a GGUF model; fetch it again."
INSTALL_LLAMA: Final = "Install llama.cpp: pip install 'antiphon[llama]'"
MOST_DISTANCE: Final = 0.001
"""1 - cosine, of an embedding model's vectors."""
_MOST_BYTES_AT_ONCE: Final = 256_000_000
"""Of larger files the copies are made one after another: two may not fit into memory."""
_UNFINISHED: Final = ".unfinished"
_RECORD_NAME: Final = re.compile(r"-[0-9a-f]{12}\..*$")
"""What follows the file's name in the name of a record."""
_LLAMA_TYPES: Final = ("bf16", "q8_0")
_FIGURES: Final = re.compile(r"KL divergence \d|1 - cosine \d")


class Served(msgspec.Struct, frozen=True):
    """The file or folder to load, the type of its weights, what computes it, and why, with what was measured."""

    path: Path
    type: str
    reason: str
    runtime: Runtime = "llama"


class MeasuredChoice(msgspec.Struct, frozen=True):
    """What was chosen for a file in the past: its name, the runtime and type that serve it, and what was measured."""

    file: str
    runtime: Runtime
    type: str
    measured: tuple[str, ...]


class _Candidate(msgspec.Struct, frozen=True):
    """A runtime and a type of weights; ``as-is`` is the file itself."""

    runtime: Runtime
    type: str

    def __str__(self) -> str:
        return self.type if self.runtime == "llama" else f"{self.type} with OpenVINO"


class _Record(msgspec.Struct, frozen=True):
    type: str
    runtime: Runtime
    reason: str


_AS_IS: Final = _Candidate("llama", "as-is")
_F16_WITH_OPENVINO: Final = _Candidate("openvino", "f16")


class _ChildFailedError(Exception):
    """A process that converts or measures failed; the message says how, and whether it was killed."""


def prepare(settings: EngineSettings, library: Library | None, *, extra_buffers: bool = True) -> Served:
    """Return what to serve, converting and measuring where that was not done before: this can take a minute.

    Without a ``library`` of llama.cpp, OpenVINO has to serve.

    Raises:
        EngineStartFailed: there is no such file, or the copy or the runtime that the settings demand is not possible.
    """
    source, directory = settings.model_path, settings.cache_directory
    if not source.is_file():
        raise EngineStartFailed(f"there is no file {str(source)!r}", hint="Check the path of the model.")
    wanted = wanted_runtime(settings) if library is not None else "openvino"
    if directory is None and wanted != "openvino":
        return Served(source, "as-is", "as the settings say", "llama" if library is not None else "openvino")
    file = read_file_header(source)
    if wanted == "openvino" and file.problem:
        raise EngineStartFailed(f"{str(source)!r} could not be loaded: {file.problem}", hint=FETCH_AGAIN)
    obstacle = "the settings say so" if wanted == "llama" else why_not_openvino(settings, file, wanted)
    if wanted == "openvino" and (obstacle or directory is None):
        obstacle = obstacle or "there is no cache_directory to convert it into"
        raise EngineStartFailed(
            f"OpenVINO cannot serve {str(source)!r}: {obstacle}{'' if library else '; llama.cpp is not installed'}",
            hint="Set runtime = 'auto' in [engine] to use llama.cpp for such a model." if library else INSTALL_LLAMA,
        )
    assert directory is not None
    candidates = _candidates(settings, file, wanted, has_openvino=not obstacle)
    note = f"llama.cpp and not OpenVINO: {obstacle}" if obstacle and wanted == "auto" else ""
    if len(candidates) == 1 and candidates[0] == _AS_IS:
        return Served(source, "as-is", _why_as_is(settings, file) + (f"; {note}" if note else ""))
    directory.mkdir(parents=True, exist_ok=True)
    with FileLock(directory / f"{_name(source)}.lock"):
        if len(candidates) == 1:
            copy = _forced(source, directory, candidates[0])
            return Served(copy, candidates[0].type, "as the settings say", candidates[0].runtime)
        choice = _Choice(source, directory, library, extra_buffers=extra_buffers)
        served = choice.served(candidates)
        return msgspec.structs.replace(served, reason="; ".join(filter(None, [served.reason, note])))


def wanted_runtime(settings: EngineSettings) -> str:
    """Return the runtime that the settings, or in their place the environment, ask for.

    Raises:
        EngineStartFailed: the environment names none.
    """
    if settings.runtime != "auto":
        return settings.runtime
    named = os.environ.get(ENVIRONMENT_VARIABLE) or "auto"
    if named not in get_args(RuntimeChoice):
        raise EngineStartFailed(
            f"the environment variable {ENVIRONMENT_VARIABLE} is {named!r}, not a runtime",
            hint=f"Set it to one of {', '.join(get_args(RuntimeChoice))}, or unset it.",
        )
    return named


def remarks(reason: str) -> list[str]:
    """Return what a ``reason`` says apart from the figures that were measured, one remark each."""
    return [words for words in reason.split("; ") if not _FIGURES.search(words)]


def measured_choices(directory: Path) -> list[MeasuredChoice]:
    """Return every choice that is kept in a ``cache_directory``, by name."""
    found = [(path, record) for path in sorted(directory.glob("*.json")) if (record := _recorded(path)) is not None]
    return [
        MeasuredChoice(_RECORD_NAME.sub("", path.name), record.runtime, record.type, tuple(record.reason.split("; ")))
        for path, record in found
    ]


def _why_as_is(settings: EngineSettings, file: FileHeader) -> str:
    if settings.weight_format == "as-is":
        return "as the settings say"
    if file.is_reranker or settings.pooling == "rank":
        return "rerankers are not converted"
    if file.problem:
        return file.problem
    if file.is_split:
        return "models in several files are not converted"
    if file.size_bytes > MOST_BYTES:
        return f"files above {MOST_BYTES} bytes are not converted"
    return "the file's type has fast kernels, or is not known"


def _candidates(settings: EngineSettings, file: FileHeader, wanted: str, *, has_openvino: bool) -> list[_Candidate]:
    """Return what may be served. With several, the first is what the others are compared with, and stays if nothing is better."""
    chosen = settings.weight_format
    if chosen not in {"auto", "as-is"}:
        # Where a type is demanded of llama.cpp's own copies, it is what computes them.
        return [_Candidate("openvino" if wanted == "openvino" else "llama", chosen)]
    types = weight_types(file.file_type, is_encoder=file.is_embedding, flags=processor_flags())
    openvino = [_Candidate("openvino", name) for name in types] if has_openvino else []
    if chosen == "as-is":
        return openvino[:1] if wanted == "openvino" else [_AS_IS]
    if wanted == "openvino":
        return openvino
    # Copies are judged by the direction of their vectors, and a reranker has none.
    is_measurable = not file.is_reranker and settings.pooling != "rank" and not file.is_split
    small = file.size_bytes <= MOST_BYTES and not file.problem and is_measurable
    llama = [_Candidate("llama", name) for name in _LLAMA_TYPES] if small and file.is_slow else []
    return [_AS_IS, *openvino, *llama]


class _Choice:
    """The choice for one file, by measuring with one library of llama.cpp, or with OpenVINO alone."""

    def __init__(self, source: Path, directory: Path, library: Library | None, *, extra_buffers: bool) -> None:
        self._source = source
        self._directory = directory
        self._library = library
        self._extra_buffers = extra_buffers

    def served(self, candidates: list[_Candidate]) -> Served:
        suffix = "" if self._extra_buffers else ".plain"
        if any(candidate.runtime == "openvino" for candidate in candidates):
            suffix += f".openvino-{version()}"
        if candidates[0] != _AS_IS:
            suffix += ".alone"
        machine = library_key(self._library.candidate) if self._library else f"{processor_key()}-{version()}"
        record_path = self._directory / f"{_name(self._source)}.{machine}{suffix}.json"
        record = _recorded(record_path)
        if record is None:
            record, is_complete = self._decide(candidates)
            if is_complete:
                record_path.write_bytes(msgspec.json.encode(record))
        chosen = _Candidate(record.runtime, record.type)
        path = self._source if chosen == _AS_IS else _forced(self._source, self._directory, chosen)
        return Served(path, record.type, record.reason, record.runtime)

    def _decide(self, candidates: list[_Candidate]) -> tuple[_Record, bool]:
        """Return the choice, and whether it may be kept: not so if the first candidate could not be measured."""
        first, *others = candidates
        with tempfile.TemporaryDirectory(dir=self._directory, prefix=".measuring-") as folder:
            try:
                exact = self._exact(Path(folder))
                rows = Path(folder) / "rows.npy"
                copies = self._make_copies(candidates, exact)
                reference = exact if self._library else self._make(_F16_WITH_OPENVINO, exact)
                _run("refer", str(reference), str(self._source), str(rows))
                original = self._measure(copies[first](), rows)
            except _ChildFailedError as error:
                # The copies go too: what failed may have been the disk, which they would keep full.
                self._discard_all_but(first, candidates)
                return _Record(
                    first.type, first.runtime, f"not measured, so another format may be several times faster: {error}"
                ), False
            best, words = first, [_described(first, original)]
            least = WORTH_EMBEDDING if original.is_embedding else WORTH
            for candidate in others:
                try:
                    measured = self._measure(copies[candidate](), rows)
                except _ChildFailedError as error:
                    words.append(f"{candidate}: left out, {error}")
                    continue
                words.append(_compared(candidate, measured, original))
                most = MOST_DISTANCE if measured.is_embedding else MOST_DIVERGENCE
                speed = measured.times_as_fast_as(original)
                if speed > least and measured.divergence <= most:
                    best, least = candidate, speed
        self._discard_all_but(best, candidates)
        return _Record(best.type, best.runtime, "; ".join(words)), True

    def _discard_all_but(self, kept: _Candidate, candidates: Sequence[_Candidate]) -> None:
        for candidate in {*candidates, _F16_WITH_OPENVINO} - {kept, _AS_IS}:
            _discard(_copy_path(self._source, self._directory, candidate))

    def _exact(self, folder: Path) -> Path:
        """Return a file of the same weights in a plain type, made in ``folder`` where they are quantised."""
        if read_file_header(self._source).file_type in PLAIN_TYPES:
            return self._source
        _run("convert", str(self._source), str(folder / "f16.gguf"), "f16")
        return folder / "f16.gguf"

    def _make_copies(self, candidates: Sequence[_Candidate], exact: Path) -> dict[_Candidate, Callable[[], Path]]:
        """Make what each candidate serves, and return what gives its path, or raises why there is none.

        All are there before anything is measured: work on another core would change the measurements. Copies of a small file
        are made two at a time.
        """
        made: dict[_Candidate, Future[Path]] = {}
        is_small = self._source.stat().st_size <= _MOST_BYTES_AT_ONCE
        with ThreadPoolExecutor(2 if is_small else 1, thread_name_prefix="copies of weights") as pool:
            for candidate in candidates:
                plain = exact if candidate == _F16_WITH_OPENVINO else None
                made[candidate] = pool.submit(self._make, candidate, plain)
        return {candidate: future.result for candidate, future in made.items()}

    def _make(self, candidate: _Candidate, exact: Path | None) -> Path:
        if candidate == _AS_IS:
            return self._source
        return _copy(self._source, self._directory, candidate, exact)

    def _measure(self, path: Path, rows: Path) -> Measurement:
        library = encode_candidate(self._library.candidate) if self._library else ""
        output = _run("measure", str(path), str(self._source), str(rows), library, str(self._extra_buffers))
        return msgspec.json.decode(output, type=Measurement)


def _compared(candidate: _Candidate, measured: Measurement, original: Measurement) -> str:
    speeds = ", ".join(f"{original.cpu_s[work] / seconds:.1f} for {work}" for work, seconds in measured.cpu_s.items())
    return (
        f"{candidate}: {measured.times_as_fast_as(original):.1f} times as fast ({speeds}), "
        f"{measured.size_bytes / 1e6:.0f} MB instead of {original.size_bytes / 1e6:.0f}, {_loss(measured)}"
    )


def _described(candidate: _Candidate, measured: Measurement) -> str:
    return f"{candidate}: {measured.size_bytes / 1e6:.0f} MB, {_loss(measured)}"


def _loss(measured: Measurement) -> str:
    loss = "1 - cosine {:.5f}" if measured.is_embedding else "KL divergence {:.4f} nats"
    return loss.format(measured.divergence)


def _recorded(path: Path) -> _Record | None:
    # A record that was cut short, as on a full disk, counts as none: the file is measured again.
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Record)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def _forced(source: Path, directory: Path, candidate: _Candidate) -> Path:
    try:
        return _copy(source, directory, candidate)
    except _ChildFailedError as error:
        raise EngineStartFailed(
            f"{str(source)!r} could not be converted to {candidate}: {error}",
            hint="Serve the file unchanged: set weight_format = 'as-is' and runtime = 'llama'.",
        ) from error


def _copy(source: Path, directory: Path, candidate: _Candidate, exact: Path | None = None) -> Path:
    """Return the copy for a candidate, made if it does not exist; ``exact`` are the source's weights in a plain type."""
    target = _copy_path(source, directory, candidate)
    if not target.exists():
        unfinished = target.with_name(target.name + _UNFINISHED)
        _discard(unfinished)
        command = "convert" if candidate.runtime == "llama" else "convert-openvino"
        try:
            _run(command, str(exact or source), str(unfinished), candidate.type)
        except _ChildFailedError:
            _discard(unfinished)
            raise
        for outdated in directory.glob(f"{glob.escape(_name(source))}.{candidate.type}.openvino-*"):
            if candidate.runtime == "openvino" and outdated != unfinished:
                _discard(outdated)
        unfinished.rename(target)
    return target


def _copy_path(source: Path, directory: Path, candidate: _Candidate) -> Path:
    if candidate.runtime == "llama":
        return directory / f"{_name(source)}.{candidate.type}.gguf"
    return directory / f"{_name(source)}.{candidate.type}.openvino-{version()}-{GRAPH_VERSION}"


def _discard(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _run(*arguments: str) -> bytes:
    command = [sys.executable, "-m", "antiphon.engine.model.measurement", *arguments]
    done = subprocess.run(command, capture_output=True, check=False, env=child_environment())  # noqa: S603 - our own module
    if done.returncode:
        last = _last_words(done.stderr.decode("utf-8", "replace"))
        doing = "converting" if arguments[0].startswith("convert") else "measuring"
        raise _ChildFailedError(f"the process {describe(done.returncode)} while {doing} it{': ' if last else ''}{last}")
    return done.stdout


def _last_words(stderr: str) -> str:
    """Return an exception of Python without its traceback; of native code the last three lines."""
    lines = [line.strip() for line in stderr.strip().splitlines()]
    return "; ".join(lines[-1:] if any(line.startswith("Traceback") for line in lines) else lines[-3:])


def _name(source: Path) -> str:
    """Return a name that changes when the file does."""
    status = source.stat()
    identity = f"{source.resolve()} {status.st_size} {status.st_mtime_ns}"
    return f"{source.stem}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
