"""``POST /v1/rerank``: from JSON to a ``RerankRequest``, or to an error in OpenAI's envelope.

OpenAI has no such path. The form is Cohere's and Jina's, which llama.cpp and vLLM follow.
"""

from typing import Any, cast

from antiphon.protocol.chat_request import check_body
from antiphon.protocol.fields import Flag, Integer, String
from antiphon.protocol.rerank import RerankRequest
from antiphon.protocol.shapes import Array, Either, Object

MAX_DOCUMENTS = 1000

_document = Either((String(), Object({"text": String()}, required=("text",))))
rerank = Object(
    {
        "model": String(min_length=1),
        "query": String(min_length=1),
        "documents": Array(_document, "strings or objects", min_length=1, max_length=MAX_DOCUMENTS),
        "top_n": Integer(minimum=1, nullable=True, note="How many results; all of them by default."),
        "return_documents": Flag(nullable=True, note="Whether each result has the document's text; false by default."),
    },
    required=("model", "query", "documents"),
)


def parse_rerank(obj: Any) -> RerankRequest:
    """Turn a decoded body into a request. Raises ``ApiError`` 400."""
    request = check_body(obj, rerank)
    documents = cast("list[str | dict[str, str]]", request["documents"])
    return RerankRequest(
        model=request["model"],
        query=request["query"],
        documents=tuple(each if isinstance(each, str) else each["text"] for each in documents),
        top_n=request.get("top_n"),
        return_documents=bool(request.get("return_documents")),
    )
