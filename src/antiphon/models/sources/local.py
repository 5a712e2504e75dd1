"""A model file that is already on this machine."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import msgspec

from antiphon.models.errors import SourceUnavailable
from antiphon.models.progress import Progress


class LocalFile(msgspec.Struct, frozen=True):
    """``path`` is absolute; the file stays where it is and is never written to."""

    path: Path

    @property
    def spec(self) -> str:
        return str(self.path)

    @property
    def file(self) -> PurePosixPath:
        return PurePosixPath(self.path.as_posix())

    @property
    def digests(self) -> Mapping[str, str]:
        return {}

    def fetch(self, workspace: Path, progress: Progress) -> Path:  # noqa: ARG002  # the contract's
        if not self.path.is_file():
            kind = "is a folder, not a file" if self.path.is_dir() else "does not exist"
            raise SourceUnavailable(f"The model file {self.path} {kind}.", hint="Check the path.")
        return self.path
