"""Where bytes are kept: a contract, and its implementations on a disk and in a bucket."""

from antiphon.files.blobs.base import BlobListing, BlobStore, BlobWriter, WrittenBlob
from antiphon.files.blobs.disk import DiskBlobs
from antiphon.files.blobs.factory import make_blob_store

__all__ = ["BlobListing", "BlobStore", "BlobWriter", "DiskBlobs", "WrittenBlob", "make_blob_store"]
