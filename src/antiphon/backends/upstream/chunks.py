"""The shapes in which upstreams answer, as far as they are read; every other field is passed over.

They follow OpenAI's document where it speaks, and for ``reasoning_content`` / ``reasoning`` the usage of vLLM, SGLang and
llama.cpp. Types are wide where servers differ: a field that cannot be read shall not cost the user an answer.
"""

from typing import Any

import msgspec

from antiphon.protocol.events import Usage

_MOST_TOKENS = 2**53
"""More is no count of tokens."""


class PromptDetails(msgspec.Struct):
    cached_tokens: float | None = None


class CompletionDetails(msgspec.Struct):
    reasoning_tokens: float | None = None


def _count(told: float | None) -> int:
    """Return a count of tokens; 0 for what was not told, or can be none: it would earn a key money, or not fit into the ledger."""
    return int(told) if told is not None and 0 <= told <= _MOST_TOKENS else 0


class UsageBody(msgspec.Struct):
    prompt_tokens: float | None = None
    completion_tokens: float | None = None
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None

    def usage(self) -> Usage:
        prompt, completion = self.prompt_tokens_details, self.completion_tokens_details
        return Usage(
            prompt_tokens=_count(self.prompt_tokens),
            completion_tokens=_count(self.completion_tokens),
            cached_tokens=_count(prompt and prompt.cached_tokens),
            reasoning_tokens=_count(completion and completion.reasoning_tokens),
        )


class PeekedChoice(msgspec.Struct):
    index: int = 0
    finish_reason: str | None = None


def error_in(chunk: "PeekedAnswer | ChatChunk | TextChunk") -> bytes | None:
    """Return the JSON text of the error that the chunk carries, None where there is none."""
    text = bytes(chunk.error)
    return None if text in {b"", b"null", b"false"} else text


class PeekedAnswer(msgspec.Struct):
    """What is read of an answer, or of a stream's chunk, that passes by."""

    model: str | None = None
    choices: list[PeekedChoice] | None = None
    usage: UsageBody | None = None
    error: msgspec.Raw = msgspec.Raw()


class FunctionBody(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class CustomBody(msgspec.Struct):
    name: str | None = None
    input: str | None = None


class ToolCallBody(msgspec.Struct):
    index: int = 0
    id: str | None = None
    type: str | None = None
    function: FunctionBody | None = None
    custom: CustomBody | None = None


class DeltaBody(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCallBody] | None = None
    function_call: FunctionBody | None = None


class LogprobBody(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int] | None = None
    top_logprobs: "list[LogprobBody] | None" = None


class LogprobsBody(msgspec.Struct):
    content: list[LogprobBody] | None = None
    refusal: list[LogprobBody] | None = None


class ChatChoice(msgspec.Struct):
    index: int = 0
    delta: DeltaBody | None = None
    finish_reason: str | None = None
    logprobs: LogprobsBody | None = None


class ChatChunk(msgspec.Struct):
    model: str | None = None
    choices: list[ChatChoice] = []
    usage: UsageBody | None = None
    error: msgspec.Raw = msgspec.Raw()
    system_fingerprint: str | None = None


class TextLogprobs(msgspec.Struct):
    tokens: list[str] = []
    token_logprobs: list[float | None] = []
    top_logprobs: list[dict[str, float] | None] | None = None


class TextChoice(msgspec.Struct):
    index: int = 0
    text: str = ""
    finish_reason: str | None = None
    logprobs: TextLogprobs | None = None


class TextChunk(msgspec.Struct):
    model: str | None = None
    choices: list[TextChoice] = []
    usage: UsageBody | None = None
    error: msgspec.Raw = msgspec.Raw()
    system_fingerprint: str | None = None


class EmbeddingBody(msgspec.Struct):
    embedding: list[float] | str
    index: int


class EmbeddingsBody(msgspec.Struct):
    data: list[EmbeddingBody]
    model: str | None = None
    usage: UsageBody | None = None


class ModelBody(msgspec.Struct):
    """``max_model_len`` is vLLM's and SGLang's, ``context_length`` and ``kind`` are another Antiphon's."""

    id: str
    created: int | None = None
    owned_by: str | None = None
    max_model_len: int | None = None
    context_length: int | None = None
    kind: Any = None


class ModelsBody(msgspec.Struct):
    data: list[ModelBody]


class TokenizeBody(msgspec.Struct):
    count: int
