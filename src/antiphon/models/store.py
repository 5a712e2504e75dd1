"""The model files on this machine: fetched once, checked, and visible only when they are complete.

Below ``home``::

    models/<id>/            the model's files and manifest.json; appears by one rename when all is checked
    models/.fetching/<id>/  what a running or interrupted fetch has so far
    models/.locks/<id>      held by the process that fetches or removes <id>
"""

import errno
import os
import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from urllib.parse import quote

import msgspec
from filelock import FileLock, Timeout

from antiphon.config import home_directory
from antiphon.models.catalogue import Catalogue
from antiphon.models.conversion import convert_bert
from antiphon.models.entry import ModelEntry
from antiphon.models.errors import CorruptModel, ModelError, NotStored
from antiphon.models.files import (
    atomic_writer,
    check_sha256,
    full_disk_explained,
    require_space,
    sha256_of,
    sync_folder,
)
from antiphon.models.gguf_header import read_header
from antiphon.models.progress import Progress, ProgressEvent, ignore
from antiphon.models.sources.base import belonging_files
from antiphon.models.sources.local import LocalFile

_MANIFEST = "manifest.json"
_UNWRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOENT, errno.EISDIR}


class StoredFile(msgspec.Struct, frozen=True):
    """A file of a stored model, by its name in the model's folder."""

    name: str
    size_bytes: int
    sha256: str


class StoredModel(msgspec.Struct, frozen=True):
    """A model on this machine: the entry that was requested, and its files. ``fetched_at`` is in Unix seconds.

    The entry's kind is ``embedding`` or ``reranker`` where the file says so, whatever was asked.
    """

    entry: ModelEntry
    files: tuple[StoredFile, ...]
    fetched_at: int

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


class ModelStore:
    """The models below ``home``. Every method is synchronous; several processes may use one home at once."""

    def __init__(self, home: Path | None = None) -> None:
        self.home = (home or home_directory()).absolute()
        self._root = self.home / "models"

    def ensure(self, entry: ModelEntry, progress: Progress = ignore) -> Path:
        """Return the path of ``entry``'s GGUF, fetching and converting it first if needed.

        A model that is already here is used unchecked (``verify`` reads it); a GGUF at a local path is checked
        and used where it lies. Interrupted, by Ctrl-C too, the next call goes on. While another process fetches
        the same model, waits for it. Raises a ``ModelError``.
        """
        if path := self._current(entry):
            return path
        workspace = self._root / ".fetching" / _slug(entry.id)
        with _writing(self._root), self._locked(entry.id, progress):
            if path := self._current(entry):
                return path
            _claim(workspace, entry.source)
            path = entry.place().fetch(workspace, progress)
            for name, digest in {**entry.digests, **entry.place().digests}.items():
                check_sha256(path.parent / name, digest, progress)
            if path.suffix == ".gguf" and not path.is_relative_to(workspace):
                shutil.rmtree(workspace)
                for file in belonging_files(PurePosixPath(path.as_posix())):
                    read_header(Path(file))
                return path
            return self._install(entry, path, workspace, progress)

    def find(self, id: str) -> StoredModel | None:  # noqa: A002  # the API's word
        """Return the model stored under ``id``, None if there is none or some of its files are gone or cut short."""
        return _read(self._folder(id))

    def path(self, id: str) -> Path:  # noqa: A002
        """Return where the GGUF of ``id`` lies. Raises ``NotStored`` if it is not stored."""
        if stored := self.find(id):
            return self._folder(id) / stored.files[0].name
        raise NotStored(id)

    def list(self) -> tuple[StoredModel, ...]:
        """Return all stored models, by id."""
        found = (_read(manifest.parent) for manifest in self._root.glob(f"*/{_MANIFEST}"))
        return tuple(sorted((model for model in found if model), key=lambda model: model.entry.id))

    def catalogue(self) -> Catalogue:
        """Return the default catalogue with the other stored models in it, so that they can be asked for by name."""
        default = Catalogue.default()
        # The defaults stay as this version has them, also where an older one's file is stored.
        known = {entry.id for entry in default.entries}
        return default.with_models(model.entry for model in self.list() if model.entry.id not in known)

    def verify(self, id: str, progress: Progress = ignore) -> None:  # noqa: A002
        """Read every file of ``id`` and compare its hash. Raises ``CorruptModel``, ``NotStored``."""
        stored = self.find(id)
        if stored is None:
            raise NotStored(id)
        for file in stored.files:
            path = self._folder(id) / file.name
            found = sha256_of(path, progress)
            if found != file.sha256:
                raise CorruptModel(
                    path,
                    f"has changed on disk: sha256 {found}, fetched as {file.sha256}",
                    hint=f"Fetch it anew: antiphon models remove {id}, then antiphon models pull {id}",
                )

    def remove(self, id: str) -> int:  # noqa: A002
        """Remove ``id`` and what an interrupted fetch of it left; return the bytes freed. Raises ``NotStored``."""
        folders = [self._folder(id), self._root / ".fetching" / _slug(id)]
        if not any(folder.exists() for folder in folders):
            raise NotStored(id)
        with _writing(self._root), self._locked(id, ignore):
            freed = sum(f.stat().st_size for folder in folders for f in folder.rglob("*") if f.is_file())
            for folder in folders:
                shutil.rmtree(folder, ignore_errors=True)
        return freed

    def _folder(self, id: str) -> Path:  # noqa: A002
        return self._root / _slug(id)

    def _current(self, entry: ModelEntry) -> Path | None:
        stored = self.find(entry.id)
        if stored is None or stored.entry.source != entry.source:
            return None
        place = entry.place()
        if isinstance(place, LocalFile) and place.path.exists() and place.path.stat().st_mtime > stored.fetched_at:
            return None  # the weights that were converted have changed since
        return self._folder(entry.id) / stored.files[0].name

    @contextmanager
    def _locked(self, id: str, progress: Progress) -> Generator[None]:  # noqa: A002
        locks = self._root / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        lock = FileLock(locks / _slug(id))
        try:
            lock.acquire(blocking=False)
        except Timeout:
            progress(ProgressEvent(id, 0, None, "wait"))
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _install(self, entry: ModelEntry, path: Path, workspace: Path, progress: Progress) -> Path:
        final = workspace / "final"
        shutil.rmtree(final, ignore_errors=True)
        final.mkdir()
        if path.suffix == ".safetensors":
            files = (_convert(entry, path, final, progress),)
        else:
            files = tuple(f.replace(final / f.name) for f in sorted(path.parent.glob("*.gguf")))
        headers = [read_header(file) for file in files]
        if headers[0].is_embedding or headers[0].is_reranker:
            entry = msgspec.structs.replace(entry, kind="reranker" if headers[0].is_reranker else "embedding")
        manifest = StoredModel(entry, tuple(_described(f, progress) for f in files), int(time.time()))
        with atomic_writer(final / _MANIFEST) as out:
            out.write(msgspec.json.format(msgspec.json.encode(manifest)))
        sync_folder(final)
        target = self._folder(entry.id)
        if target.exists():
            target.rename(workspace / "replaced")
        final.rename(target)
        sync_folder(target.parent)
        shutil.rmtree(workspace, ignore_errors=True)
        return target / files[0].name


def _slug(id: str) -> str:  # noqa: A002
    return quote(id, safe="")


def _read(folder: Path) -> StoredModel | None:
    try:
        stored = msgspec.json.decode((folder / _MANIFEST).read_bytes(), type=StoredModel)
        whole = all((folder / file.name).stat().st_size == file.size_bytes for file in stored.files)
    except (OSError, msgspec.DecodeError):
        return None
    return stored if whole else None


def _claim(workspace: Path, source: str) -> None:
    """Leave in ``workspace`` only what a fetch of the same source has put there."""
    stamp = workspace / "source"
    if not stamp.exists() or stamp.read_text("utf-8") != source:
        shutil.rmtree(workspace, ignore_errors=True)
        workspace.mkdir(parents=True)
        stamp.write_text(source, "utf-8")


def _convert(entry: ModelEntry, weights: Path, folder: Path, progress: Progress) -> Path:
    require_space(folder, weights.stat().st_size)
    target = folder / f"{_slug(entry.id)}-f16.gguf"
    convert_bert(
        weights,
        target,
        name=entry.id,
        progress=lambda done, total: progress(ProgressEvent(target.name, done, total, "convert")),
    )
    with target.open("rb") as file:
        os.fsync(file.fileno())
    return target


def _described(file: Path, progress: Progress) -> StoredFile:
    return StoredFile(file.name, file.stat().st_size, sha256_of(file, progress))


@contextmanager
def _writing(root: Path) -> Generator[None]:
    try:
        with full_disk_explained(root):
            yield
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        raise ModelError(
            f"The model store cannot be written: {error.filename or root}: {error.strerror}.",
            hint="Set ANTIPHON_HOME to a folder that can be written.",
        ) from error
