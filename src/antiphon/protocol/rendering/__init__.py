"""From events to what goes over the wire: one JSON body, or server-sent events.

``Body`` classes collect the events of a request; ``Stream`` classes turn each into complete frames at once. Both take
events in the order that ``protocol.events`` states, and neither does I/O.
"""

from antiphon.protocol.ids import new_id
from antiphon.protocol.rendering.chat_body import ChatBody
from antiphon.protocol.rendering.chat_stream import ChatStream
from antiphon.protocol.rendering.completion_body import CompletionBody
from antiphon.protocol.rendering.completion_stream import CompletionStream
from antiphon.protocol.rendering.embeddings import render_embeddings
from antiphon.protocol.rendering.frames import DONE, encode, error_frame, frame
from antiphon.protocol.rendering.models import model_value
from antiphon.protocol.rendering.rerank import render_rerank
from antiphon.protocol.rendering.response_state import ResponseState, TurnEvent
from antiphon.protocol.rendering.response_stream import (
    ResponseBody,
    ResponseStream,
    response_error_frame,
    with_obfuscation,
)

__all__ = [
    "DONE",
    "ChatBody",
    "ChatStream",
    "CompletionBody",
    "CompletionStream",
    "ResponseBody",
    "ResponseState",
    "ResponseStream",
    "TurnEvent",
    "encode",
    "error_frame",
    "frame",
    "model_value",
    "new_id",
    "render_embeddings",
    "render_rerank",
    "response_error_frame",
    "with_obfuscation",
]
