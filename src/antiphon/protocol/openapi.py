"""The OpenAPI document of this server, made of the very tables that requests are checked against.

What JSON Schema cannot say (``tool_choice`` only with ``tools``, results that match calls) is said in words. Parameters
that are refused whatever their value are left out; docs/api.md lists them.
"""

from typing import Any

from antiphon.protocol import answer_shapes, openapi_file_paths, vector_stores
from antiphon.protocol.batches import batch_request
from antiphon.protocol.chat_fields import chat
from antiphon.protocol.completion_request import completion
from antiphon.protocol.console_paths import console_paths
from antiphon.protocol.embedding_request import embedding
from antiphon.protocol.fields import Spec, schema_of
from antiphon.protocol.files import complete_upload_request, upload_request
from antiphon.protocol.openapi_parts import (
    FAILURES,
    OBJECT,
    failures_of,
    json_content,
    operation,
    path_names,
    query,
    stored,
)
from antiphon.protocol.rerank_request import rerank
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
    "RerankRequest": rerank,
    "BatchRequest": batch_request,
    "UploadRequest": upload_request,
    "UploadCompletion": complete_upload_request,
    "VectorStoreRequest": vector_stores.create_store,
    "VectorStoreUpdate": vector_stores.update_store,
    "VectorStoreSearch": vector_stores.search,
    "VectorStoreFileRequest": vector_stores.create_file,
    "VectorStoreFileUpdate": vector_stores.update_file,
    "VectorStoreBatchRequest": vector_stores.create_batch,
    "Embeddings": answer_shapes.embeddings,
    "RankedDocuments": answer_shapes.rerank,
    "Model": answer_shapes.model,
    "Models": answer_shapes.models,
    "Health": answer_shapes.health,
    "TokenCount": answer_shapes.token_count,
    "UsageOfCompletions": answer_shapes.usage_of_completions,
    "UsageOfEmbeddings": answer_shapes.usage_of_embeddings,
    "Costs": answer_shapes.costs,
    "Error": answer_shapes.error,
}


def _generation(summary: str, request: str, answer: str, chunk: str | None) -> Json:
    answers = json_content(answer)
    if chunk is not None:
        text = f"With `stream`: events `data: {chunk}`, each a {chunk} as JSON, and `data: [DONE]` at the end."
        answers["text/event-stream"] = {"schema": {"type": "string", "description": text}}
    return {"post": operation(summary, answers, *FAILURES, body=request)}


_MODEL_NAME: Json = {"name": "model", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}

_SECONDS: Json = {"type": "integer", "minimum": 0, "maximum": 99_999_999_999}


def _report(summary: str, answer: str, names: str, groups: list[str], widths: dict[str, int], *more: Json) -> Json:
    many: Json = {"type": "array", "items": {"type": "string"}}
    parameters = [
        query("start_time", _SECONDS, required=True),
        query("end_time", _SECONDS),
        query("bucket_width", {"type": "string", "enum": list(widths)}),
        query("limit", {"type": "integer", "minimum": 1, "maximum": max(widths.values())}),
        query("page", {"type": "string"}),
        query("group_by", {"type": "array", "items": {"type": "string", "enum": groups}}),
        query("api_key_ids", many),
        query(names, many),
        *more,
    ]
    return {"get": operation(summary, json_content(answer), "400", "401", "403", "500") | {"parameters": parameters}}


_RESPONSE_PATHS: Json = {
    "/v1/responses": {
        "post": operation(
            "Create a response, whole, as events, or in the background", OBJECT, *FAILURES, body="ResponseRequest"
        ),
        "get": {
            "summary": "Begin a WebSocket, over which each response.create is answered with events",
            "responses": {
                "101": {"description": "The connection is a WebSocket from here on"},
                **failures_of("400", "401", "403", "500", "503"),
                "426": {"description": "Ask for a WebSocket, or use POST", "content": json_content("Error")},
            },
        },
    },
    "/v1/responses/input_tokens": {
        "post": operation("Count the tokens of a response's prompt", OBJECT, *FAILURES, body="ResponseRequest")
    },
    "/v1/responses/compact": {
        "post": operation("Summarise a conversation into a sealed item", OBJECT, *FAILURES, body="ResponseRequest")
    },
    "/v1/responses/{response_id}": {
        "parameters": path_names("response_id"),
        "get": stored("Show a stored response; with stream=true follow one in the background"),
        "delete": stored("Remove a stored response"),
    },
    "/v1/responses/{response_id}/cancel": {
        "parameters": path_names("response_id"),
        "post": stored("Stop a response in the background"),
    },
    "/v1/responses/{response_id}/input_items": {
        "parameters": path_names("response_id"),
        "get": stored("List the items that a response was made from"),
    },
    "/v1/conversations": {"post": stored("Make a conversation", has_body=True)},
    "/v1/conversations/{conversation_id}": {
        "parameters": path_names("conversation_id"),
        "get": stored("Show a conversation"),
        "post": stored("Replace a conversation's metadata", has_body=True),
        "delete": stored("Remove a conversation and its items"),
    },
    "/v1/conversations/{conversation_id}/items": {
        "parameters": path_names("conversation_id"),
        "get": stored("List a conversation's items"),
        "post": stored("Add items to a conversation", has_body=True),
    },
    "/v1/conversations/{conversation_id}/items/{item_id}": {
        "parameters": path_names("conversation_id", "item_id"),
        "get": stored("Show an item"),
        "delete": stored("Remove an item"),
    },
}

_PATHS: Json = {
    "/v1/chat/completions": _generation(
        "Answer a conversation", "ChatCompletionRequest", "ChatCompletion", "ChatCompletionChunk"
    )
    | {"get": stored("List stored chat completions")},
    "/v1/chat/completions/{completion_id}": {
        "parameters": path_names("completion_id"),
        "get": stored("Show a stored chat completion"),
        "post": stored("Replace a stored chat completion's metadata", has_body=True),
        "delete": stored("Remove a stored chat completion"),
    },
    "/v1/chat/completions/{completion_id}/messages": {
        "parameters": path_names("completion_id"),
        "get": stored("List the messages of a stored chat completion's request"),
    },
    "/v1/completions": _generation("Continue a text", "CompletionRequest", "Completion", "CompletionChunk"),
    "/v1/embeddings": _generation("Turn texts into vectors", "EmbeddingRequest", "Embeddings", None),
    "/v1/rerank": _generation(
        "Rank documents by their relevance to a question", "RerankRequest", "RankedDocuments", None
    ),
    **_RESPONSE_PATHS,
    **openapi_file_paths.PATHS,
    "/v1/models": {"get": operation("List models and aliases", json_content("Models"), "401", "500")},
    "/v1/models/{model}": {
        "parameters": [_MODEL_NAME],
        "get": operation("Describe a model", json_content("Model"), "401", "404", "500"),
        "delete": {
            "summary": "Refused: models are removed on the machine itself",
            "responses": failures_of("401", "403", "404", "500"),
        },
    },
    "/v1/organization/usage/completions": _report(
        "Tokens and requests of chat and completions, in buckets of time",
        "UsageOfCompletions",
        "models",
        ["api_key_id", "model", "batch"],
        {"1m": 1440, "1h": 168, "1d": 31},
        query("batch", {"type": "boolean"}),
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
        "post": operation(
            "Count the tokens of a conversation, as the model's template renders it",
            json_content("TokenCount"),
            *FAILURES,
            body="ChatCompletionRequest",
        )
    },
    "/health": {
        "get": operation("Is the server ready?", json_content("Health"), is_open=True)
        | {
            "responses": {
                code: {"description": text, "content": json_content("Health")}
                for code, text in {"200": "Ready", "503": "Loading or down"}.items()
            }
        }
    },
    "/": {
        "get": operation("What this server is", {"application/json": {"schema": {"type": "object"}}}, is_open=True),
    },
    "/openapi.json": {
        "get": operation("This document", {"application/json": {"schema": {"type": "object"}}}, is_open=True)
    },
    "/metrics": {
        "get": operation(
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
