"""What is said on the wire: requests, responses, events, errors. Pure data, no I/O."""

from antiphon.protocol.chat_request import parse_chat
from antiphon.protocol.completion_request import parse_completion
from antiphon.protocol.decoding import check_content_type, decode_json
from antiphon.protocol.embedding_request import parse_embedding
from antiphon.protocol.errors import ApiError
from antiphon.protocol.rerank_request import parse_rerank

__all__ = [
    "ApiError",
    "check_content_type",
    "decode_json",
    "parse_chat",
    "parse_completion",
    "parse_embedding",
    "parse_rerank",
]
