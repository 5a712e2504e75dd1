"""The OpenAPI document of this server, made of the very tables that requests are checked against.

What JSON Schema cannot say (``tool_choice`` only with ``tools``, results that match calls) is said in words. Parameters
that are refused whatever their value are left out; docs/api.md lists them.
"""

from typing import Any

from antiphon.protocol import answer_shapes
from antiphon.protocol.batches import batch_request
from antiphon.protocol.chat_fields import chat
from antiphon.protocol.completion_request import completion
from antiphon.protocol.console_paths import console_paths
from antiphon.protocol.embedding_request import embedding
from antiphon.protocol.fields import Spec, schema_of
from antiphon.protocol.files import PURPOSES, complete_upload_request, upload_request
from antiphon.protocol.responses.fields import responses

Json = dict[str, Any]

_SCHEMAS: dict[str, Spec] = {
    "ChatCompletionRequest": chat,
    "ChatCompletion": answer_shapes.chat_completion,
    "ChatCompletionChunk": answer_shapes.chat_chunk,
    "ResponseRequest": responses,
    "CompletionRequest": completion,
    "Completion": answer_shapes.text_completion,
    "CompletionChunk": answer_shapes.text_chunk,
    "EmbeddingRequest": embedding,
    "BatchRequest": batch_request,
    "UploadRequest": upload_request,
    "UploadCompletion": complete_upload_request,
    "Embeddings": answer_shapes.embeddings,
    "Model": answer_shapes.model,
    "Models": answer_shapes.models,
    "Health": answer_shapes.health,
    "TokenCount": answer_shapes.token_count,
    "UsageOfCompletions": answer_shapes.usage_of_completions,
    "UsageOfEmbeddings": answer_shapes.usage_of_embeddings,
    "Costs": answer_shapes.costs,
    "Error": answer_shapes.error,
}

_FAILURES = {
    "400": "The request is malformed, or asks for what the model cannot do",
    "401": "No key, or a wrong one",
    "403": "The key may not do this",
    "404": "No such model",
    "413": "The body is larger than the server's limit",
    "415": "The body is not application/json",
    "429": "A rate limit or budget is used up; Retry-After says when to come back, if ever",
    "500": "A fault of the server",
    "503": "Overloaded, or the model is loading; Retry-After says when to come back",
}
_DESCRIPTIONS = _FAILURES | {"507": "The server's storage is full"}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(name: str) -> Json:
    return {"application/json": {"schema": _ref(name)}}


def _failures(*codes: str) -> Json:
    return {code: {"description": _DESCRIPTIONS[code], "content": _json("Error")} for code in codes}


def _operation(summary: str, answers: Json, *failures: str, body: str | None = None, is_open: bool = False) -> Json:
    responses: Json = {"200": {"description": "Success", "content": answers}, **_failures(*failures)}
    operation: Json = {"summary": summary, "responses": responses}
    if body is not None:
        operation["requestBody"] = {"required": True, "content": _json(body)}
    if is_open:
        operation["security"] = []
    return operation


def _generation(summary: str, request: str, answer: str, chunk: str | None) -> Json:
    answers = _json(answer)
    if chunk is not None:
        text = f"With `stream`: events `data: {chunk}`, each a {chunk} as JSON, and `data: [DONE]` at the end."
        answers["text/event-stream"] = {"schema": {"type": "string", "description": text}}
    return {"post": _operation(summary, answers, *_FAILURES, body=request)}


_MODEL_NAME: Json = {"name": "model", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}

_SECONDS: Json = {"type": "integer", "minimum": 0, "maximum": 99_999_999_999}


def _query(name: str, schema: Json, *, required: bool = False) -> Json:
    return {"name": name, "in": "query", "required": required, "schema": schema}


def _report(summary: str, answer: str, names: str, groups: list[str], widths: dict[str, int]) -> Json:
    many: Json = {"type": "array", "items": {"type": "string"}}
    parameters = [
        _query("start_time", _SECONDS, required=True),
        _query("end_time", _SECONDS),
        _query("bucket_width", {"type": "string", "enum": list(widths)}),
        _query("limit", {"type": "integer", "minimum": 1, "maximum": max(widths.values())}),
        _query("page", {"type": "string"}),
        _query("group_by", {"type": "array", "items": {"type": "string", "enum": groups}}),
        _query("api_key_ids", many),
        _query(names, many),
    ]
    return {"get": _operation(summary, _json(answer), "400", "401", "403", "500") | {"parameters": parameters}}


_OBJECT: Json = {"application/json": {"schema": {"type": "object"}}}


def _path_names(*names: str) -> list[Json]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}} for name in names
    ]


def _stored(summary: str, *, has_body: bool = False) -> Json:
    operation = _operation(summary, _OBJECT, "400", "401", "404", "500", "503")
    if has_body:
        operation["requestBody"] = {"required": True, "content": _OBJECT}
    return operation


_RESPONSE_PATHS: Json = {
    "/v1/responses": {
        "post": _operation(
            "Create a response, whole, as events, or in the background", _OBJECT, *_FAILURES, body="ResponseRequest"
        ),
        "get": {
            "summary": "Begin a WebSocket, over which each response.create is answered with events",
            "responses": {
                "101": {"description": "The connection is a WebSocket from here on"},
                **_failures("400", "401", "403", "500", "503"),
                "426": {"description": "Ask for a WebSocket, or use POST", "content": _json("Error")},
            },
        },
    },
    "/v1/responses/input_tokens": {
        "post": _operation("Count the tokens of a response's prompt", _OBJECT, *_FAILURES, body="ResponseRequest")
    },
    "/v1/responses/compact": {
        "post": _operation("Summarise a conversation into a sealed item", _OBJECT, *_FAILURES, body="ResponseRequest")
    },
    "/v1/responses/{response_id}": {
        "parameters": _path_names("response_id"),
        "get": _stored("Show a stored response; with stream=true follow one in the background"),
        "delete": _stored("Remove a stored response"),
    },
    "/v1/responses/{response_id}/cancel": {
        "parameters": _path_names("response_id"),
        "post": _stored("Stop a response in the background"),
    },
    "/v1/responses/{response_id}/input_items": {
        "parameters": _path_names("response_id"),
        "get": _stored("List the items that a response was made from"),
    },
    "/v1/conversations": {"post": _stored("Make a conversation", has_body=True)},
    "/v1/conversations/{conversation_id}": {
        "parameters": _path_names("conversation_id"),
        "get": _stored("Show a conversation"),
        "post": _stored("Replace a conversation's metadata", has_body=True),
        "delete": _stored("Remove a conversation and its items"),
    },
    "/v1/conversations/{conversation_id}/items": {
        "parameters": _path_names("conversation_id"),
        "get": _stored("List a conversation's items"),
        "post": _stored("Add items to a conversation", has_body=True),
    },
    "/v1/conversations/{conversation_id}/items/{item_id}": {
        "parameters": _path_names("conversation_id", "item_id"),
        "get": _stored("Show an item"),
        "delete": _stored("Remove an item"),
    },
}

_LIST_PARAMETERS = [
    _query("after", {"type": "string"}),
    _query("order", {"type": "string", "enum": ["asc", "desc"]}),
]


def _form(summary: str, *failures: str, **fields: Json) -> Json:
    """Describe a request whose body is a form with a file."""
    schema: Json = {"type": "object", "properties": fields, "required": [name for name in fields if "[" not in name]}
    operation = _operation(summary, _OBJECT, "400", "401", "413", "415", "429", "500", "503", "507", *failures)
    operation["requestBody"] = {"required": True, "content": {"multipart/form-data": {"schema": schema}}}
    return operation


_BINARY: Json = {"type": "string", "format": "binary"}
_FILE_PATHS: Json = {
    "/v1/files": {
        "get": _stored("List files")
        | {
            "parameters": [
                *_LIST_PARAMETERS,
                _query("limit", {"type": "integer", "minimum": 1, "maximum": 10_000}),
                _query("purpose", {"type": "string"}),
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
        "parameters": _path_names("file_id"),
        "get": _stored("Show a file"),
        "delete": _stored("Remove a file"),
    },
    "/v1/files/{file_id}/content": {
        "parameters": _path_names("file_id"),
        "get": _operation(
            "Download a file", {"application/octet-stream": {"schema": _BINARY}}, "401", "404", "500", "503"
        ),
    },
    "/v1/uploads": {
        "post": _operation("Begin an upload in parts", _OBJECT, "400", "401", "413", "500", "503", body="UploadRequest")
    },
    "/v1/uploads/{upload_id}/parts": {
        "parameters": _path_names("upload_id"),
        "post": _form("Add a part to an upload", "404", data=_BINARY),
    },
    "/v1/uploads/{upload_id}/complete": {
        "parameters": _path_names("upload_id"),
        "post": _operation(
            "Make a file of the parts", _OBJECT, "400", "401", "404", "500", "503", "507", body="UploadCompletion"
        ),
    },
    "/v1/uploads/{upload_id}/cancel": {
        "parameters": _path_names("upload_id"),
        "post": _stored("End an upload and remove its parts"),
    },
}

_BATCH_PATHS: Json = {
    "/v1/batches": {
        "get": _stored("List batches")
        | {
            "parameters": [
                _query("after", {"type": "string"}),
                _query("limit", {"type": "integer", "minimum": 1, "maximum": 100}),
            ]
        },
        "post": _operation("Begin a batch", _OBJECT, "400", "401", "413", "500", "503", body="BatchRequest"),
    },
    "/v1/batches/{batch_id}": {"parameters": _path_names("batch_id"), "get": _stored("Show a batch")},
    "/v1/batches/{batch_id}/cancel": {"parameters": _path_names("batch_id"), "post": _stored("Stop a batch")},
}

_PATHS: Json = {
    "/v1/chat/completions": _generation(
        "Answer a conversation", "ChatCompletionRequest", "ChatCompletion", "ChatCompletionChunk"
    )
    | {"get": _stored("List stored chat completions")},
    "/v1/chat/completions/{completion_id}": {
        "parameters": _path_names("completion_id"),
        "get": _stored("Show a stored chat completion"),
        "post": _stored("Replace a stored chat completion's metadata", has_body=True),
        "delete": _stored("Remove a stored chat completion"),
    },
    "/v1/chat/completions/{completion_id}/messages": {
        "parameters": _path_names("completion_id"),
        "get": _stored("List the messages of a stored chat completion's request"),
    },
    "/v1/completions": _generation("Continue a text", "CompletionRequest", "Completion", "CompletionChunk"),
    "/v1/embeddings": _generation("Turn texts into vectors", "EmbeddingRequest", "Embeddings", None),
    **_RESPONSE_PATHS,
    **_FILE_PATHS,
    **_BATCH_PATHS,
    "/v1/models": {"get": _operation("List models and aliases", _json("Models"), "401", "500")},
    "/v1/models/{model}": {
        "parameters": [_MODEL_NAME],
        "get": _operation("Describe a model", _json("Model"), "401", "404", "500"),
        "delete": {
            "summary": "Refused: models are removed on the machine itself",
            "responses": _failures("401", "403", "404", "500"),
        },
    },
    "/v1/organization/usage/completions": _report(
        "Tokens and requests of chat and completions, in buckets of time",
        "UsageOfCompletions",
        "models",
        ["api_key_id", "model"],
        {"1m": 1440, "1h": 168, "1d": 31},
    ),
    "/v1/organization/usage/embeddings": _report(
        "Tokens and requests of embeddings, in buckets of time",
        "UsageOfEmbeddings",
        "models",
        ["api_key_id", "model"],
        {"1m": 1440, "1h": 168, "1d": 31},
    ),
    "/v1/organization/costs": _report(
        "Dollars, in buckets of time", "Costs", "line_items", ["api_key_id", "line_item"], {"1d": 180}
    ),
    "/tokenize": {
        "post": _operation(
            "Count the tokens of a conversation, as the model's template renders it",
            _json("TokenCount"),
            *_FAILURES,
            body="ChatCompletionRequest",
        )
    },
    "/health": {
        "get": _operation("Is the server ready?", _json("Health"), is_open=True)
        | {
            "responses": {
                code: {"description": text, "content": _json("Health")}
                for code, text in {"200": "Ready", "503": "Loading or down"}.items()
            }
        }
    },
    "/": {
        "get": _operation("What this server is", {"application/json": {"schema": {"type": "object"}}}, is_open=True),
    },
    "/openapi.json": {
        "get": _operation("This document", {"application/json": {"schema": {"type": "object"}}}, is_open=True)
    },
    "/metrics": {
        "get": _operation(
            "Metrics in Prometheus' text format", {"text/plain": {"schema": {"type": "string"}}}, is_open=True
        )
    },
}


def openapi_document(version: str) -> Json:
    """Return the document as a JSON value; ``version`` is the server's."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Antiphon",
            "version": version,
            "description": "The OpenAI API on your own machine. The names and meanings of parameters follow OpenAI's "
            "published OpenAPI document (MIT licence).",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"key": []}],
        "paths": {**_PATHS, **console_paths(_PATHS)},
        "components": {
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer"},
                "session": {"type": "apiKey", "in": "cookie", "name": "antiphon_console"},
            },
            "schemas": {name: schema_of(spec) for name, spec in _SCHEMAS.items()},
        },
    }
