"""What goes wrong with files, in OpenAI's envelope."""

import errno

from antiphon.protocol.errors import ApiError

FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
_NO_RETRY = {"x-should-retry": "false"}


def no_such_file(file_id: str) -> ApiError:
    return ApiError(404, f"No such File object: {file_id}", param="id")


def no_such_upload(upload_id: str) -> ApiError:
    return ApiError(404, f"No such Upload object: {upload_id}", param="upload_id")


def storage_full() -> ApiError:
    """507 (RFC 4918): nothing of the file was kept, and trying again does not help until somebody makes room."""
    return ApiError(
        507,
        "The server's storage is full, so the file was not kept. Delete files, or ask the server's operator for room.",
        type="server_error",
        code="insufficient_storage",
        headers=_NO_RETRY,
    )


def storage_quota_exceeded(limit: int, unit: str, owner: str) -> ApiError:
    """400: the file does not fit into what ``owner`` may keep."""
    return ApiError(
        400,
        f"The file does not fit: {owner} may keep {limit:,} {unit} of files on this server. Delete files that are not needed.",
        code="storage_quota_exceeded",
    )


def file_too_large(num_bytes: int, *, what: str = "A file") -> ApiError:
    return ApiError(
        413,
        f"{what} may have at most {num_bytes:,} bytes on this server.",
        param="file",
        code="file_too_large",
        headers={"connection": "close"},
    )


def content_missing(file_id: str) -> ApiError:
    """500: the row is there and the bytes are not: somebody removed them from the storage."""
    return ApiError(
        500,
        f"The content of file '{file_id}' is missing from the server's storage.",
        type="server_error",
        code="file_content_missing",
        headers=_NO_RETRY,
    )


def storage_unreachable() -> ApiError:
    """503: the bucket does not answer."""
    return ApiError(
        503,
        "The server cannot reach its file storage, please try again later",
        type="server_error",
        headers={"Retry-After": "1"},
    )
