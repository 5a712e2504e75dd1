"""Paths of the OpenAPI document for what is kept in files: uploads, batches, vector stores."""

from typing import Any

from antiphon.protocol.files import PURPOSES
from antiphon.protocol.openapi_parts import OBJECT, operation, path_names, query, stored

Json = dict[str, Any]
_LIST_PARAMETERS = [
    query("after", {"type": "string"}),
    query("order", {"type": "string", "enum": ["asc", "desc"]}),
]


def _form(summary: str, *failures: str, **fields: Json) -> Json:
    """Describe a request whose body is a form with a file."""
    schema: Json = {"type": "object", "properties": fields, "required": [name for name in fields if "[" not in name]}
    made = operation(summary, OBJECT, "400", "401", "413", "415", "429", "500", "503", "507", *failures)
    made["requestBody"] = {"required": True, "content": {"multipart/form-data": {"schema": schema}}}
    return made


_BINARY: Json = {"type": "string", "format": "binary"}
_FILE_PATHS: Json = {
    "/v1/files": {
        "get": stored("List files")
        | {
            "parameters": [
                *_LIST_PARAMETERS,
                query("limit", {"type": "integer", "minimum": 1, "maximum": 10_000}),
                query("purpose", {"type": "string"}),
            ]
        },
        "post": _form(
            "Upload a file",
            file=_BINARY,
            purpose={"type": "string", "enum": list(PURPOSES)},
            **{"expires_after[anchor]": {"type": "string"}, "expires_after[seconds]": {"type": "integer"}},
        ),
    },
    "/v1/files/{file_id}": {
        "parameters": path_names("file_id"),
        "get": stored("Show a file"),
        "delete": stored("Remove a file"),
    },
    "/v1/files/{file_id}/content": {
        "parameters": path_names("file_id"),
        "get": operation(
            "Download a file", {"application/octet-stream": {"schema": _BINARY}}, "401", "404", "500", "503"
        ),
    },
    "/v1/uploads": {
        "post": operation("Begin an upload in parts", OBJECT, "400", "401", "413", "500", "503", body="UploadRequest")
    },
    "/v1/uploads/{upload_id}/parts": {
        "parameters": path_names("upload_id"),
        "post": _form("Add a part to an upload", "404", data=_BINARY),
    },
    "/v1/uploads/{upload_id}/complete": {
        "parameters": path_names("upload_id"),
        "post": operation(
            "Make a file of the parts", OBJECT, "400", "401", "404", "500", "503", "507", body="UploadCompletion"
        ),
    },
    "/v1/uploads/{upload_id}/cancel": {
        "parameters": path_names("upload_id"),
        "post": stored("End an upload and remove its parts"),
    },
}

_BATCH_PATHS: Json = {
    "/v1/batches": {
        "get": stored("List batches")
        | {
            "parameters": [
                query("after", {"type": "string"}),
                query("limit", {"type": "integer", "minimum": 1, "maximum": 100}),
            ]
        },
        "post": operation("Begin a batch", OBJECT, "400", "401", "413", "500", "503", body="BatchRequest"),
    },
    "/v1/batches/{batch_id}": {"parameters": path_names("batch_id"), "get": stored("Show a batch")},
    "/v1/batches/{batch_id}/cancel": {"parameters": path_names("batch_id"), "post": stored("Stop a batch")},
}


def _store_list(summary: str, *, has_filter: bool = False) -> Json:
    parameters = [
        *_LIST_PARAMETERS,
        query("before", {"type": "string"}),
        query("limit", {"type": "integer", "minimum": 1, "maximum": 100}),
    ]
    if has_filter:
        statuses = ["in_progress", "completed", "failed", "cancelled"]
        parameters.append(query("filter", {"type": "string", "enum": statuses}))
    return stored(summary) | {"parameters": parameters}


def _store_change(summary: str, body: str) -> Json:
    return operation(summary, OBJECT, "400", "401", "404", "429", "500", "503", body=body)


_STORE = "/v1/vector_stores/{vector_store_id}"
_VECTOR_STORE_PATHS: Json = {
    "/v1/vector_stores": {
        "get": _store_list("List vector stores"),
        "post": _store_change("Make a vector store", "VectorStoreRequest"),
    },
    _STORE: {
        "parameters": path_names("vector_store_id"),
        "get": stored("Show a vector store"),
        "post": _store_change("Change a vector store", "VectorStoreUpdate"),
        "delete": stored("Remove a vector store"),
    },
    f"{_STORE}/search": {
        "parameters": path_names("vector_store_id"),
        "post": _store_change("Search in a vector store", "VectorStoreSearch"),
    },
    f"{_STORE}/files": {
        "parameters": path_names("vector_store_id"),
        "get": _store_list("List the files of a vector store", has_filter=True),
        "post": _store_change("Put a file into a vector store", "VectorStoreFileRequest"),
    },
    f"{_STORE}/files/{{file_id}}": {
        "parameters": path_names("vector_store_id", "file_id"),
        "get": stored("Show a file of a vector store"),
        "post": _store_change("Replace the attributes of a file", "VectorStoreFileUpdate"),
        "delete": stored("Take a file out of a vector store"),
    },
    f"{_STORE}/files/{{file_id}}/content": {
        "parameters": path_names("vector_store_id", "file_id"),
        "get": stored("Show the text of a file as it was read"),
    },
    f"{_STORE}/file_batches": {
        "parameters": path_names("vector_store_id"),
        "post": _store_change("Put several files into a vector store", "VectorStoreBatchRequest"),
    },
    f"{_STORE}/file_batches/{{batch_id}}": {
        "parameters": path_names("vector_store_id", "batch_id"),
        "get": stored("Show a batch of files"),
    },
    f"{_STORE}/file_batches/{{batch_id}}/cancel": {
        "parameters": path_names("vector_store_id", "batch_id"),
        "post": stored("Stop reading a batch of files"),
    },
    f"{_STORE}/file_batches/{{batch_id}}/files": {
        "parameters": path_names("vector_store_id", "batch_id"),
        "get": _store_list("List the files of a batch", has_filter=True),
    },
}

PATHS: Json = {**_FILE_PATHS, **_BATCH_PATHS, **_VECTOR_STORE_PATHS}
