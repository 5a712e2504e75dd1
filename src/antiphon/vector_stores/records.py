"""Vector stores, their files and batches of files, as they are kept and as the API shows them."""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from antiphon.vector_stores.errors import FileErrorCode

Json = dict[str, Any]
FileStatus = Literal["in_progress", "completed", "cancelled", "failed"]
STATUSES: tuple[FileStatus, ...] = ("in_progress", "completed", "cancelled", "failed")


class FileCounts(msgspec.Struct, frozen=True):
    """How many files have which status, and the bytes of those in the index."""

    by_status: Mapping[str, int] = {}
    usage_bytes: int = 0

    def value(self) -> Json:
        counts = {status: self.by_status.get(status, 0) for status in STATUSES}
        return {**counts, "total": sum(counts.values())}

    @property
    def is_settled(self) -> bool:
        """Whether no file is being read any more."""
        return not self.by_status.get("in_progress")


class VectorStore(msgspec.Struct, frozen=True, kw_only=True):
    """``model`` made its vectors. ``expires_at_ms`` None: kept until it is deleted."""

    id: str
    account: str
    name: str
    description: str | None
    metadata: Mapping[str, str]
    model: str
    created_at_ms: int
    last_active_at_ms: int
    expires_after_days: int | None
    expires_at_ms: int | None

    def is_expired(self, now_ms: int) -> bool:
        return self.expires_at_ms is not None and self.expires_at_ms <= now_ms

    def value(self, counts: FileCounts, now_ms: int) -> Json:
        """Return it as the API shows it."""
        days = self.expires_after_days
        status = "expired" if self.is_expired(now_ms) else "completed" if counts.is_settled else "in_progress"
        return {
            "id": self.id,
            "object": "vector_store",
            "created_at": self.created_at_ms // 1000,
            "name": self.name,
            "description": self.description,
            "usage_bytes": counts.usage_bytes,
            "file_counts": counts.value(),
            "status": status,
            "expires_after": None if days is None else {"anchor": "last_active_at", "days": days},
            "expires_at": None if self.expires_at_ms is None else self.expires_at_ms // 1000,
            "last_active_at": self.last_active_at_ms // 1000,
            "metadata": dict(self.metadata),
        }


class NewStoreFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file to read into a vector store: cut into chunks of ``chunk_tokens``, of which ``chunk_overlap`` overlap."""

    file_id: str
    filename: str
    attributes: Mapping[str, Any]
    chunk_tokens: int
    chunk_overlap: int


class StoreFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file in a vector store."""

    vector_store_id: str
    file_id: str
    account: str
    filename: str
    batch_id: str | None
    status: FileStatus
    created_at_ms: int
    attributes: Mapping[str, Any]
    chunk_tokens: int
    chunk_overlap: int
    usage_bytes: int
    error_code: FileErrorCode | None
    error_message: str | None

    def value(self) -> Json:
        """Return it as the API shows it."""
        error = None if self.error_code is None else {"code": self.error_code, "message": self.error_message}
        static = {"max_chunk_size_tokens": self.chunk_tokens, "chunk_overlap_tokens": self.chunk_overlap}
        return {
            "id": self.file_id,
            "object": "vector_store.file",
            "usage_bytes": self.usage_bytes,
            "created_at": self.created_at_ms // 1000,
            "vector_store_id": self.vector_store_id,
            "status": self.status,
            "last_error": error,
            "chunking_strategy": {"type": "static", "static": static},
            "attributes": dict(self.attributes),
        }


class FileBatch(msgspec.Struct, frozen=True, kw_only=True):
    """Files that were added together."""

    id: str
    vector_store_id: str
    created_at_ms: int
    is_cancelled: bool

    def value(self, counts: FileCounts) -> Json:
        """Return it as the API shows it."""
        by_status = counts.by_status
        if not counts.is_settled:
            status = "in_progress"
        elif self.is_cancelled:
            status = "cancelled"
        else:
            has_only_failures = bool(by_status.get("failed")) and set(by_status) == {"failed"}
            status = "failed" if has_only_failures else "completed"
        return {
            "id": self.id,
            "object": "vector_store.files_batch",
            "created_at": self.created_at_ms // 1000,
            "vector_store_id": self.vector_store_id,
            "status": status,
            "file_counts": counts.value(),
        }
