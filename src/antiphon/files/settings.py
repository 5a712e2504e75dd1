"""The settings ``[files]``."""

import msgspec

from antiphon.errors import ConfigError

_MIB = 1 << 20
_GIB = 1 << 30


class FileSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the bytes of files are kept, and how many.

    ``url`` None: the folder ``files`` in ``ANTIPHON_HOME``; else a bucket, as ``s3://bucket/folder``. ``max_file_bytes``: of one
    file sent in one request. ``max_upload_bytes``: of a file sent in parts. ``max_key_bytes``, ``max_key_files``: of all files
    of one key. ``max_bytes``: of all files of all keys. ``min_free_bytes``: what stays free on the disk, for the database.
    """

    url: str | None = None
    max_file_bytes: int = 512 * _MIB
    max_upload_bytes: int = 8 * _GIB
    max_key_bytes: int = 16 * _GIB
    max_key_files: int = 100_000
    max_bytes: int = 64 * _GIB
    min_free_bytes: int = 256 * _MIB

    def __post_init__(self) -> None:
        for name in ("max_file_bytes", "max_upload_bytes", "max_key_bytes", "max_key_files", "max_bytes"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"[files] {name} must be above 0")
        if self.min_free_bytes < 0:
            raise ConfigError("[files] min_free_bytes must not be negative")
        if self.url is not None and self.url.partition("://")[0] not in {"s3", "gs", "az"}:
            raise ConfigError(
                f"[files] url is {self.url!r}; files are kept in a folder of ANTIPHON_HOME or in a bucket",
                hint="write s3://bucket/folder, or leave url out for the folder",
            )
