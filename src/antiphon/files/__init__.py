"""Files that clients upload, and those that the server makes for them: bytes in a blob store, rows in the accounts' database."""

from antiphon.files.blobs import BlobStore, BlobWriter, WrittenBlob, make_blob_store
from antiphon.files.files import FileStore, NewFile, StoredFile
from antiphon.files.settings import FileSettings
from antiphon.files.sweeper import FileSweeper
from antiphon.files.uploads import StoredUpload, UploadStore

__all__ = [
    "BlobStore",
    "BlobWriter",
    "FileSettings",
    "FileStore",
    "FileSweeper",
    "NewFile",
    "StoredFile",
    "StoredUpload",
    "UploadStore",
    "WrittenBlob",
    "make_blob_store",
]
