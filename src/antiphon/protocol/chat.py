"""A chat completion request, validated: what every layer below the wire works with."""

from typing import Any, Literal

import msgspec

from antiphon.protocol.caching import CacheUse
from antiphon.protocol.priority import Priority

Role = Literal["developer", "system", "user", "assistant", "tool", "function"]


class FunctionCall(msgspec.Struct, frozen=True):
    """A call in the history; ``arguments`` is the JSON text as written in the request."""

    name: str
    arguments: str


class ToolCall(msgspec.Struct, frozen=True):
    """An assistant's call in the history. For a custom tool ``function.arguments`` is its input text."""

    id: str
    function: FunctionCall
    kind: Literal["function", "custom"] = "function"


class Message(msgspec.Struct, frozen=True):
    """One message. ``content`` has its text parts joined; None only where the wire allows it.

    Older function calls and results (role ``function``) have a made-up id in ``tool_calls`` and ``tool_call_id``.
    ``reasoning_content`` is the thinking part of an earlier answer, if the client sent it back.
    """

    role: Role
    content: str | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    reasoning_content: str | None = None


class Tool(msgspec.Struct, frozen=True):
    """A tool that may be called. ``parameters`` is a JSON Schema, None for a function without any.

    For ``kind == "custom"``, ``grammar`` is ``(syntax, definition)`` with syntax ``lark`` or ``regex``,
    or None for free text.
    """

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool = False
    kind: Literal["function", "custom"] = "function"
    grammar: tuple[Literal["lark", "regex"], str] | None = None


class ToolChoice(msgspec.Struct, frozen=True):
    """``mode`` with the names it is limited to (empty: all tools). A named choice is ``required`` with one name."""

    mode: Literal["none", "auto", "required"] = "auto"
    names: tuple[str, ...] = ()


class JsonSchemaFormat(msgspec.Struct, frozen=True):
    """``response_format`` of type ``json_schema``."""

    name: str
    schema: dict[str, Any]
    description: str | None = None
    strict: bool = False


class JsonObjectFormat(msgspec.Struct, frozen=True):
    """``response_format`` of type ``json_object``."""


class Sampling(msgspec.Struct, frozen=True):
    """How the next token is drawn. Ranges as on the wire; ``logit_bias`` maps token id to -100..100."""

    temperature: float = 1.0
    top_p: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = {}
    seed: int | None = None


RECORDED = (
    "user",
    "safety_identifier",
    "metadata",
    "service_tier",
    "prompt_cache_key",
    "reasoning_effort",
    "verbosity",
)
"""Parameters that describe a request or hint at the manner of its answer; what an answer promises does not depend on them."""


class ChatRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a backend needs to answer.

    ``max_tokens`` is ``max_completion_tokens`` or the older ``max_tokens``; None means up to the context.
    ``legacy_functions`` marks a request that used ``functions`` and is answered with ``function_call``.
    ``raw`` is the request's JSON, for backends that pass it on; it is never mutated. ``cache`` is set where the
    response cache may answer.
    """

    model: str
    messages: tuple[Message, ...]
    sampling: Sampling = Sampling()
    max_tokens: int | None = None
    n: int = 1
    stop: tuple[str, ...] = ()
    logprobs: bool = False
    top_logprobs: int = 0
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoice("none")
    parallel_tool_calls: bool = True
    legacy_functions: bool = False
    response_format: JsonSchemaFormat | JsonObjectFormat | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    stream: bool = False
    include_usage: bool = False
    include_obfuscation: bool = False
    user: str | None = None
    safety_identifier: str | None = None
    metadata: dict[str, str] = {}
    store: bool = False
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    raw: dict[str, Any] = {}
    cache: CacheUse | None = None
    priority: Priority = "interactive"

    def recorded(self) -> dict[str, Any]:
        """Return what the request's log line keeps: descriptions of the request, and hints that a model may not follow."""
        given = {name: getattr(self, name) for name in RECORDED}
        return {name: value for name, value in given.items() if value}
