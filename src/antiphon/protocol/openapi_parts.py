"""What the OpenAPI document is put together from: operations, their parameters and failures."""

from typing import Any

Json = dict[str, Any]
FAILURES = {
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
DESCRIPTIONS = FAILURES | {"507": "The server's storage is full"}


def ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def json_content(name: str) -> Json:
    return {"application/json": {"schema": ref(name)}}


def failures_of(*codes: str) -> Json:
    return {code: {"description": DESCRIPTIONS[code], "content": json_content("Error")} for code in codes}


def operation(summary: str, answers: Json, *failures: str, body: str | None = None, is_open: bool = False) -> Json:
    responses: Json = {"200": {"description": "Success", "content": answers}, **failures_of(*failures)}
    made: Json = {"summary": summary, "responses": responses}
    if body is not None:
        made["requestBody"] = {"required": True, "content": json_content(body)}
    if is_open:
        made["security"] = []
    return made


def query(name: str, schema: Json, *, required: bool = False) -> Json:
    return {"name": name, "in": "query", "required": required, "schema": schema}


OBJECT: Json = {"application/json": {"schema": {"type": "object"}}}


def path_names(*names: str) -> list[Json]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}} for name in names
    ]


def stored(summary: str, *, has_body: bool = False) -> Json:
    made = operation(summary, OBJECT, "400", "401", "404", "500", "503")
    if has_body:
        made["requestBody"] = {"required": True, "content": OBJECT}
    return made
