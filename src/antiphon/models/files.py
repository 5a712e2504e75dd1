"""Files that appear complete or not at all, and full disks."""

import errno
import hashlib
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from antiphon.models.errors import CorruptModel, StoreFull
from antiphon.models.progress import Progress, ProgressEvent

CHUNK_BYTES = 1 << 20
_RESERVE_BYTES = 16 << 20
"""Left free on the disk, for logs and databases that share it."""


def require_space(path: Path, needed_bytes: int) -> None:
    """Raise ``StoreFull`` unless ``needed_bytes`` and a small reserve fit on the disk of ``path``."""
    existing = next(p for p in (path, *path.parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if free < needed_bytes + _RESERVE_BYTES:
        raise StoreFull(path, needed_bytes, free)


@contextmanager
def full_disk_explained(path: Path) -> Generator[None]:
    """Turn the operating system's "no space left" into ``StoreFull``."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreFull.at(path) from error
        raise


@contextmanager
def atomic_writer(target: Path) -> Generator[BinaryIO]:
    """Open a file that appears as ``target``, synced to disk, when the block ends well, and never otherwise."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    try:
        with full_disk_explained(target.parent), part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` survive a power cut, where the system can."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sha256_of(path: Path, progress: Progress) -> str:
    """Return the file's sha256 in hex."""
    digest = hashlib.sha256()
    size = path.stat().st_size
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            progress(ProgressEvent(path.name, file.tell(), size, "verify"))
    return digest.hexdigest()


def check_sha256(path: Path, expected: str, progress: Progress) -> None:
    """Remove ``path`` and raise ``CorruptModel`` unless it has the ``expected`` hash."""
    found = sha256_of(path, progress)
    if found != expected:
        path.unlink()
        raise CorruptModel(
            path,
            f"has the sha256 {found}, expected {expected}; it has been removed",
            hint="Try again. If it stays so, the mirror in between serves something else: do not use it.",
        )
