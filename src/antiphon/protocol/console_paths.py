"""The console's endpoints in the OpenAPI document. They are Antiphon's own; docs/console.md says what the fields mean."""

from typing import Any

Json = dict[str, Any]

_ERROR: Json = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
_FAILURES = {
    "400": "The body or the query is malformed",
    "401": "No session and no admin's key",
    "403": "Not an admin's key, or a page of another origin",
    "404": "There is nothing of that id",
    "409": "Another model is being fetched",
    "500": "A fault of the server",
    "503": "The database does not answer",
}
_TEXT: Json = {"type": "string"}
_MAYBE_TEXT: Json = {"type": ["string", "null"]}
_NUMBER: Json = {"type": "number"}
_MAYBE_NUMBER: Json = {"type": ["number", "null"]}
_COUNT: Json = {"type": "integer", "minimum": 0}
_FLAG: Json = {"type": "boolean"}


def _object(required: Json, **more: Any) -> Json:
    return {"type": "object", "properties": {**required, **more}, "required": list(required)}


def _list(items: Json) -> Json:
    return {"type": "array", "items": items}


def _limit() -> Json:
    return {"type": ["integer", "null"], "minimum": 1, "maximum": 2**31 - 1}


_REQUEST = _object(
    {
        "id": _TEXT,
        "request_id": _TEXT,
        "at": _NUMBER,
        "key_id": _MAYBE_TEXT,
        "key": _MAYBE_TEXT,
        "path": _TEXT,
        "kind": _TEXT,
        "model": _TEXT,
        "answered_by": _MAYBE_TEXT,
        "status": _COUNT,
        "error": _MAYBE_TEXT,
        "prompt_tokens": _COUNT,
        "completion_tokens": _COUNT,
        "cached_tokens": _COUNT,
        "reasoning_tokens": _COUNT,
        "is_estimate": _FLAG,
        "cache": _MAYBE_TEXT,
        "usd": _MAYBE_NUMBER,
        "ttft_s": _MAYBE_NUMBER,
        "duration_s": _NUMBER,
        "compute_s": _MAYBE_NUMBER,
        "queue_s": _MAYBE_NUMBER,
        "prefill_s": _MAYBE_NUMBER,
    }
)
_LIMITS: Json = {
    "rpm": _limit(),
    "tpm": _limit(),
    "rpd": _limit(),
    "concurrency": _limit(),
    "budget_usd": {"type": ["number", "null"], "exclusiveMinimum": 0},
    "budget_period": {"enum": ["day", "month", "total"]},
    "models": {"type": ["array", "null"], "items": {"type": "string", "minLength": 1}, "minItems": 1},
}
_KEY = _object(
    {
        "id": _TEXT,
        "name": _TEXT,
        "hint": _TEXT,
        "state": {"enum": ["active", "expired", "revoked"]},
        "is_admin": _FLAG,
        "created_at": _NUMBER,
        "expires_at": _MAYBE_NUMBER,
        "limits": {"type": "object"},
        "server_limits": {"type": "object"},
        "budget_usd": _MAYBE_NUMBER,
        "budget_period": _MAYBE_TEXT,
        "spent_usd": _MAYBE_NUMBER,
        "left": _list(
            _object({"model": _TEXT, "scope": {"enum": ["rpm", "tpm", "rpd"]}, "limit": _COUNT, "left": _COUNT})
        ),
        "models": {"type": ["array", "null"], "items": _TEXT},
    },
    key={"type": "string", "description": "The key itself; only when it is created or rotated"},
)
_SESSION = _object({"signed_in": _FLAG, "version": _TEXT}, is_open=_FLAG, key=_TEXT, capture={"type": "object"})


def _operation(summary: str, answer: Json, *failures: str, body: Json | None = None, status: str = "200") -> Json:
    responses: Json = {status: {"description": "Success", "content": {"application/json": {"schema": answer}}}}
    responses |= {
        code: {"description": _FAILURES[code], "content": _ERROR} for code in ("401", "403", "500", *failures)
    }
    operation: Json = {"summary": summary, "tags": ["console"], "responses": responses}
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return operation


def _query(name: str, schema: Json) -> Json:
    return {"name": name, "in": "query", "required": False, "schema": schema}


def _in_path(name: str) -> Json:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _page(summary: str, content_type: str) -> Json:
    responses: Json = {"200": {"description": summary, "content": {content_type: {"schema": {"type": "string"}}}}}
    return {"summary": summary, "tags": ["console"], "security": [], "responses": responses}


def _key_paths() -> Json:
    return {
        "/console/api/keys": {
            "get": _operation("Every key ever made", _object({"data": _list(_KEY)}), "503"),
            "post": _operation(
                "Create a key",
                _KEY,
                "400",
                "503",
                body=_object({"name": _TEXT}, **_LIMITS, is_admin=_FLAG, expires_days=_MAYBE_NUMBER),
            ),
        },
        "/console/api/keys/{key_id}": {
            "parameters": [_in_path("key_id")],
            "post": _operation("Replace a key's limits", _KEY, "400", "503", body=_object({}, **_LIMITS)),
            "delete": _operation("Revoke a key", _KEY, "400", "503"),
        },
        "/console/api/keys/{key_id}/rotate": {
            "parameters": [_in_path("key_id")],
            "post": _operation("Replace a key's secret", _KEY, "400", "503"),
        },
    }


def _model_paths() -> Json:
    return {
        "/console/api/models": {
            "get": _operation("What is served, loaded and on disk", _object({"served": _list({"type": "object"})})),
            "post": _operation(
                "Fetch a model onto this machine",
                {"type": "object"},
                "400",
                "409",
                body=_object({"source": _TEXT}),
                status="202",
            ),
        },
    }


def console_paths(playground: Json) -> Json:
    """Return the paths; ``playground`` are those of generation, which the console has too."""
    filters = [
        _query("limit", {"type": "integer", "minimum": 1, "maximum": 1000}),
        _query("before", {"type": "string", "pattern": "^[0-9a-f]{28}$"}),
        _query("status", {"enum": ["ok", "error"]}),
        *(_query(name, {"type": "string", "minLength": 1}) for name in ("model", "key_id", "path")),
    ]
    feed = _operation("What happens now, as server-sent events", _TEXT)
    feed["responses"]["200"]["content"] = {"text/event-stream": {"schema": {"type": "string"}}}
    days = _query("days", {"type": "integer", "minimum": 1, "maximum": 366})
    usage = _object({"buckets": _list(_COUNT), "width_s": _COUNT, "data": _list({"type": "object"})})
    return {
        "/console": {"get": _page("The console's page", "text/html")},
        "/console/{name}": {
            "parameters": [_in_path("name")],
            "get": _page("A script or a style sheet of the console", "text/javascript"),
        },
        "/console/api/session": {
            "get": _operation("Who is signed in", _SESSION) | {"security": []},
            "post": _operation("Sign in with an admin's key", _SESSION, "400", body=_object({"key": _TEXT}))
            | {"security": []},
            "delete": _operation("Sign out", _SESSION) | {"security": []},
        },
        "/console/api/feed": {"get": feed},
        "/console/api/requests": {
            "get": _operation(
                "Requests that are over, newest first",
                _object({"data": _list(_REQUEST), "has_more": _FLAG}),
                "400",
                "503",
            )
            | {"parameters": filters}
        },
        "/console/api/requests/{request_id}": {
            "parameters": [_in_path("request_id")],
            "get": _operation(
                "One request, with its contents where they were captured",
                _object(
                    {name: {"type": ["object", "null"]} for name in ("live", "request", "contents")},
                ),
                "404",
                "503",
            ),
        },
        "/console/api/usage": {
            "get": _operation("Usage by day, key and model", usage, "400", "503") | {"parameters": [days]}
        },
        **_key_paths(),
        **_model_paths(),
        **{path.replace("/v1/", "/console/api/"): {"post": playground[path]["post"]} for path in _PLAYGROUND},
    }


_PLAYGROUND = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
