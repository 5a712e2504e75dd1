"""What goes wrong with vector stores, in OpenAI's envelope; and why a file could not be read into one."""

from typing import Literal

from antiphon.protocol import problems
from antiphon.protocol.errors import ApiError

FileErrorCode = Literal["server_error", "unsupported_file", "invalid_file"]


class UnreadableFile(Exception):  # noqa: N818 - what happened to the file
    """The file cannot be read into a vector store; ``code`` and ``message`` become its ``last_error``."""

    def __init__(self, code: FileErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class KeyAtLimit(Exception):  # noqa: N818 - what happened to the key
    """The limits of a key have no room for its files; they may have in ``wait_s`` seconds."""

    def __init__(self, wait_s: float) -> None:
        super().__init__(wait_s)
        self.wait_s = wait_s


def no_such_store(store_id: str) -> ApiError:
    return ApiError(404, f"Vector store with id '{store_id}' not found.", param="vector_store_id")


def no_such_store_file(file_id: str, store_id: str) -> ApiError:
    return ApiError(404, f"No file found with id '{file_id}' in vector store '{store_id}'.", param="file_id")


def no_such_store_batch(batch_id: str, store_id: str) -> ApiError:
    return ApiError(404, f"No file batch found with id '{batch_id}' in vector store '{store_id}'.", param="batch_id")


def store_expired(store_id: str) -> ApiError:
    return problems.bad_request(f"Vector store '{store_id}' is expired.", "vector_store_id", "vector_store_expired")


def too_many_stores(limit: int) -> ApiError:
    return problems.bad_request(
        f"This key has {limit:,} vector stores, as many as this server allows. Delete some that are not needed.",
        None,
        "vector_store_limit_exceeded",
    )


def too_many_store_files(limit: int) -> ApiError:
    return problems.bad_request(
        f"A vector store may have at most {limit:,} files on this server.", "file_ids", "vector_store_limit_exceeded"
    )


def no_embedding_model() -> ApiError:
    return problems.bad_request(
        "Vector stores need an embedding model, and this server has none. Its operator can set [models] embedding, or name "
        "a model of an upstream in [vector_stores] embedding_model.",
        None,
        "no_embedding_model",
    )


def index_missing(store_id: str) -> ApiError:
    """500: the row is there and the file is not: it was removed, or another machine has it."""
    return ApiError(
        500,
        f"The index of vector store '{store_id}' is not on this server. Vector stores are kept on the disk of the machine "
        "that made them.",
        type="server_error",
        code="vector_store_index_missing",
        headers={"x-should-retry": "false"},
    )


def is_index_missing(error: ApiError) -> bool:
    return error.code == index_missing("").code


def index_unusable(message: str) -> ApiError:
    return ApiError(
        500, message, type="server_error", code="vector_store_index_unusable", headers={"x-should-retry": "false"}
    )
