"""Fields that clients send and that say nothing to a model: copies that the official client keeps in its own objects.

OpenAI's document does not have them. A request with them is answered as the same request without them, because refusing it
would break the client's own round trip: an answer that ``parse()`` or ``stream()`` returned is appended to the history.
Any other unknown field is refused.
"""

from dataclasses import dataclass
from typing import ClassVar

from antiphon.protocol.fields import Schema, Spec

CLIENT_FIELDS = {
    "messages[].parsed": "openai-python and openai-node: a message that parse() or stream() returned",
    "messages[].tool_calls[].index": "openai-python and openai-node: a message that stream() put together",
    "messages[].tool_calls[].function.parsed_arguments": "openai-python and openai-node: a message of parse() or stream()",
    "messages[].provider_specific_fields": "LiteLLM: a message that completion() returned",
    "messages[].tool_calls[].provider_specific_fields": "LiteLLM: a message that completion() returned",
    "messages[].tool_calls[].function.provider_specific_fields": "LiteLLM: a message that completion() returned",
    "messages[].reasoning_details": "clients of OpenRouter: a message of an earlier answer",
    "tools[].function.required": "guardrails: the schema's own list, repeated next to it",
}
"""The path of each field, and who sends it."""


@dataclass(frozen=True)
class ClientField(Spec):
    """Any value at all; ``path`` is a key of ``CLIENT_FIELDS``."""

    can_refuse: ClassVar[bool] = False

    path: str

    def __post_init__(self) -> None:
        assert self.path in CLIENT_FIELDS

    def schema(self) -> Schema:
        return {"description": f"Accepted and not read. Sent by {CLIENT_FIELDS[self.path]}."}
