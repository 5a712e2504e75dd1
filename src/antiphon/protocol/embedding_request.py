"""``POST /v1/embeddings``: from JSON to an ``EmbeddingRequest``, or to OpenAI's error."""

from typing import Any

from antiphon.protocol import problems
from antiphon.protocol.chat_fields import user
from antiphon.protocol.chat_request import check_body
from antiphon.protocol.embeddings import EmbeddingRequest
from antiphon.protocol.fields import Enumeration, Integer, String
from antiphon.protocol.shapes import Object
from antiphon.protocol.token_input import Inputs, read_inputs, wrong_input

embedding = Object(
    {
        "model": String(min_length=1),
        "input": Inputs(wrong_input, allows_empty_text=False),
        "encoding_format": Enumeration(("float", "base64")),
        "dimensions": Integer(minimum=1, note="At most the model's own; refused beyond."),
        "user": user,
    },
    required=("model", "input"),
)


def parse_embedding(obj: Any) -> EmbeddingRequest:
    """Turn a decoded body into a request. Raises ``ApiError`` 400, worded as OpenAI's."""
    if isinstance(obj, dict) and "model" in obj and "input" not in obj:
        raise problems.bad_request("Please submit an `input`.")
    request = check_body(obj, embedding)
    return EmbeddingRequest(
        model=request["model"],
        inputs=read_inputs(request["input"]),
        dimensions=request.get("dimensions"),
        encoding_format=request.get("encoding_format", "float"),
        user=request.get("user"),
        raw=request,
    )
