"""Which libraries of llama.cpp are on this machine.

``prebuilt`` is the one inside the Python package ``xllamacpp``. ``native`` was compiled here by ``antiphon engine build``
and lies in a folder of its own; ``llama-cpp-python`` counts as native too, because pip compiles it on the machine.
"""

import importlib.metadata
import importlib.util
import os
import sys
from pathlib import Path
from typing import Final

import msgspec

from antiphon.engine.model.native.library import PREBUILT_PACKAGE, Candidate, LibraryRefusedError
from antiphon.engine.model.native.processor import processor_key

ENVIRONMENT_VARIABLE: Final = "ANTIPHON_ENGINE_LIBRARY"
"""Replaces ``auto``, also in processes that read no configuration."""
MANIFEST: Final = "build.json"
_EXTENSION_SUFFIXES: Final = (".abi3.so", ".so", ".pyd", ".dylib", ".dll")
_LIBRARY_NAMES: Final = {"win32": ("llama.dll", "libllama.dll"), "darwin": ("libllama.dylib", "libllama.so")}


class Build(msgspec.Struct, frozen=True):
    """What is kept of a native build: the version of its source, the processor it is for, compiler and flags."""

    version: str
    processor: str
    compiler: str
    flags: str


def find_libraries(native_directory: Path | None = None) -> list[Candidate]:
    """Return the libraries that are here, prebuilt first; native builds for another processor are left out.

    ``native_directory`` holds the native builds, a folder each.
    """
    found = [_prebuilt(), *_native_builds(native_directory), _llama_cpp_python()]
    return [candidate for candidate in found if candidate is not None]


def selected(candidates: list[Candidate], wanted: str | None) -> list[Candidate]:
    """Return the candidates that the setting ``library`` allows: ``auto``, ``prebuilt``, ``native``, ``none``, or a library's path.

    None or ``auto``: what the environment variable says, else all.

    Raises:
        LibraryRefusedError: there is no file at the path.
    """
    if wanted in {None, "auto"}:
        wanted = os.environ.get(ENVIRONMENT_VARIABLE) or "auto"
    match wanted:
        case "auto":
            return candidates
        case "none":
            return []
        case "prebuilt":
            return [candidate for candidate in candidates if candidate.kind == "prebuilt"]
        case "native":
            return [candidate for candidate in candidates if candidate.kind != "prebuilt"]
        case _:
            assert wanted is not None
            path = Path(wanted).expanduser()
            if not path.is_file():
                raise LibraryRefusedError(f"there is no library {str(path)!r}")
            known = [candidate for candidate in candidates if candidate.path == path.resolve()]
            return known or [Candidate("native", path.resolve(), path.name)]


def library_names() -> tuple[str, ...]:
    """Return the file names that libllama may have on this platform."""
    return _LIBRARY_NAMES.get(sys.platform, ("libllama.so",))


def _prebuilt() -> Candidate | None:
    folder = _package_folder(PREBUILT_PACKAGE)
    if folder is None:
        return None
    files = [folder / f"{PREBUILT_PACKAGE}{suffix}" for suffix in _EXTENSION_SUFFIXES]
    files += sorted(folder.glob(f"{PREBUILT_PACKAGE}.*.pyd"))
    return _first("prebuilt", files, importlib.metadata.version(PREBUILT_PACKAGE))


def _native_builds(directory: Path | None) -> list[Candidate | None]:
    if directory is None or not directory.is_dir():
        return []
    builds: list[Candidate | None] = []
    for manifest in sorted(directory.glob(f"*/{MANIFEST}"), reverse=True):
        build = msgspec.json.decode(manifest.read_bytes(), type=Build)
        if build.processor == processor_key():
            builds.append(_first("native", [manifest.parent / name for name in library_names()], build.version))
    return builds


def _llama_cpp_python() -> Candidate | None:
    folder = _package_folder("llama_cpp")
    if folder is None:
        return None
    files = [folder / "lib" / name for name in library_names()]
    return _first("llama-cpp-python", files, importlib.metadata.version("llama_cpp_python"))


def _package_folder(package: str) -> Path | None:
    """Return where a package lies, without importing it: an import would load its library."""
    spec = importlib.util.find_spec(package)
    return None if spec is None or spec.origin is None else Path(spec.origin).resolve().parent


def _first(kind: str, files: list[Path], version: str) -> Candidate | None:
    path = next((file for file in files if file.is_file()), None)
    return (
        None if path is None else msgspec.convert({"kind": kind, "path": path.resolve(), "version": version}, Candidate)
    )
