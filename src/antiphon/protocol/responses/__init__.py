"""``POST /v1/responses``: from JSON to a conversation that any backend answers. Pure data, no I/O."""

from antiphon.protocol.responses.history import UnknownItem, messages_of, with_ids
from antiphon.protocol.responses.request import ResponseRequest, parse_compaction, parse_response
from antiphon.protocol.responses.tools import ToolNames

__all__ = [
    "ResponseRequest",
    "ToolNames",
    "UnknownItem",
    "messages_of",
    "parse_compaction",
    "parse_response",
    "with_ids",
]
