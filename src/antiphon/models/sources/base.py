"""The contract of a source: a place that a model's files come from."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Protocol

from antiphon.gguf_file import files_of
from antiphon.models.conversion import COMPANIONS
from antiphon.models.progress import Progress


class Source(Protocol):
    """Where a model's files come from."""

    @property
    def spec(self) -> str:
        """The text that ``parse_source`` reads back as this source."""
        ...

    @property
    def file(self) -> PurePosixPath:
        """The model's main file, relative to the root of the source."""
        ...

    @property
    def digests(self) -> Mapping[str, str]:
        """The sha256 that files must have, by their path relative to the main file's folder."""
        ...

    def fetch(self, workspace: Path, progress: Progress) -> Path:
        """Fetch the main file and the files that belong to it, and return its path.

        What must be downloaded goes below ``workspace``, an existing folder that no one else uses, where an
        interrupted call may have left parts: they are used, or thrown away if they no longer fit. Raises
        ``SourceUnavailable``, ``CorruptModel`` or ``StoreFull``; interrupted by anything else, the call can
        be repeated.
        """
        ...


def belonging_files(file: PurePosixPath) -> tuple[PurePosixPath, ...]:
    """Return ``file`` and what must be fetched with it: the other shards of a split GGUF, a tokenizer of safetensors."""
    if file.suffix == ".safetensors":
        return (file, *(file.parent / name for name in COMPANIONS))
    return files_of(file)
