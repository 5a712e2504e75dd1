"""Chooses the blob store that the settings name."""

from pathlib import Path

from antiphon.extras import missing_extra
from antiphon.files.blobs.base import BlobStore
from antiphon.files.blobs.disk import DiskBlobs
from antiphon.files.settings import FileSettings


def make_blob_store(settings: FileSettings, home: Path) -> BlobStore:
    """Return the store; nothing is written yet. Raises ``MissingExtra`` without the library for buckets."""
    if settings.url is None:
        return DiskBlobs(home / "files", min_free_bytes=settings.min_free_bytes)
    from antiphon.files.blobs.bucket import open_bucket  # noqa: PLC0415 - there only with the extra [bucket]

    try:
        return open_bucket(settings.url)
    except ImportError as error:
        raise (missing_extra(error) or error) from error
