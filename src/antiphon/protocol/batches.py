"""The requests for batches, and one line of a batch's input file. The codes of wrong lines are OpenAI's."""

from typing import Any, cast

from antiphon.protocol import problems
from antiphon.protocol.errors import ApiError
from antiphon.protocol.fields import Enumeration, Integer, String
from antiphon.protocol.metadata import METADATA
from antiphon.protocol.shapes import JsonObject, Object

Json = dict[str, Any]
ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
"""What a batch can be for here."""
_DOCUMENTED = (
    *ENDPOINTS,
    "/v1/moderations",
    "/v1/images/generations",
    "/v1/images/edits",
    "/v1/videos",
)

batch_request = Object(
    {
        "input_file_id": String(min_length=1, max_length=200),
        "endpoint": Enumeration(_DOCUMENTED, ENDPOINTS),
        "completion_window": Enumeration(("24h",)),
        "metadata": METADATA,
        "output_expires_after": Object(
            {"anchor": Enumeration(("created_at",)), "seconds": Integer(minimum=3600, maximum=30 * 86_400)},
            required=("anchor", "seconds"),
        ),
    },
    required=("input_file_id", "endpoint", "completion_window"),
)
_line = Object(
    {
        "custom_id": String(min_length=1, max_length=512),
        "method": Enumeration(("POST",)),
        "url": String(),
        "body": JsonObject(),
    },
    required=("custom_id", "method", "url", "body"),
)
_NOT_IN_A_BATCH = ("stream", "background")
"""Fields of a body that must not be true: nobody listens to a request of a batch."""


def check_line(value: Any, endpoint: str) -> Json:
    """Return a line that has the form of a request for ``endpoint``; ``ApiError`` 400 says what is wrong with it."""
    if not isinstance(value, dict):
        raise unparseable()
    _line.check(value, "")
    line = cast("Json", value)
    if line["url"] != endpoint:
        raise problems.bad_request(
            f"The URL provided for this request does not match the batch endpoint: expected '{endpoint}', but got "
            f"'{line['url'][:200]}' instead.",
            "url",
            "url_mismatch",
        )
    body: Json = line["body"]
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise problems.missing("body.model") if model is None else problems.wrong_type("body.model", "a string", model)
    for name in _NOT_IN_A_BATCH:
        if body.get(name):
            raise problems.unsupported_value(f"body.{name}", "true", ("false",))
    return line


def unparseable() -> ApiError:
    return problems.bad_request("This line is not parseable as valid JSON.", None, "invalid_json_line")
