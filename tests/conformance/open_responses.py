"""The shapes of Open Responses (specification of 2026-04-24) that concern text, for ``msgspec.convert``.

A field without a default must be there, as in the specification's own schemas; further fields are allowed.
"""

from typing import Any, Literal

import msgspec

Status = Literal["in_progress", "completed", "incomplete"]
Logprobs = list[dict[str, Any]]


class OutputText(msgspec.Struct, tag="output_text"):
    text: str
    annotations: list[dict[str, Any]]
    logprobs: Logprobs = []


class InputText(msgspec.Struct, tag="input_text"):
    text: str


class Refusal(msgspec.Struct, tag="refusal"):
    refusal: str


class SummaryText(msgspec.Struct, tag="summary_text"):
    text: str


class ReasoningText(msgspec.Struct, tag="reasoning_text"):
    text: str


Part = OutputText | InputText | Refusal | SummaryText | ReasoningText


class MessageItem(msgspec.Struct, tag="message"):
    id: str
    status: Status
    role: Literal["user", "assistant", "system", "developer"]
    content: list[Part]


class FunctionCallItem(msgspec.Struct, tag="function_call"):
    id: str
    call_id: str
    name: str
    arguments: str
    status: Status


class ReasoningItem(msgspec.Struct, tag="reasoning"):
    id: str
    summary: list[Part]
    content: list[Part] = []
    encrypted_content: str = ""


class CompactionItem(msgspec.Struct, tag="compaction"):
    id: str
    encrypted_content: str


OutputItem = MessageItem | FunctionCallItem | ReasoningItem | CompactionItem


class FunctionTool(msgspec.Struct, tag="function"):
    name: str
    description: str | None
    parameters: dict[str, Any] | None
    strict: bool | None


class Format(msgspec.Struct):
    type: Literal["text", "json_object", "json_schema"]


class TextSettings(msgspec.Struct):
    format: Format
    verbosity: Literal["low", "medium", "high"] = "medium"


class Reasoning(msgspec.Struct):
    effort: str | None
    summary: str | None


class CachedTokens(msgspec.Struct):
    cached_tokens: int


class ReasoningTokens(msgspec.Struct):
    reasoning_tokens: int


class TokenUsage(msgspec.Struct):
    input_tokens: int
    output_tokens: int
    total_tokens: int
    input_tokens_details: CachedTokens
    output_tokens_details: ReasoningTokens


class Reason(msgspec.Struct):
    reason: str


class Failure(msgspec.Struct):
    code: str
    message: str


class Response(msgspec.Struct):
    """``ResponseResource``."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: str
    incomplete_details: Reason | None
    model: str
    previous_response_id: str | None
    instructions: str | None
    output: list[OutputItem]
    error: Failure | None
    tools: list[FunctionTool]
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any]
    truncation: Literal["auto", "disabled"]
    parallel_tool_calls: bool
    text: TextSettings
    top_p: float
    presence_penalty: float
    frequency_penalty: float
    top_logprobs: int
    temperature: float
    reasoning: Reasoning | None
    usage: TokenUsage | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    store: bool
    background: bool
    service_tier: str
    metadata: Any
    safety_identifier: str | None
    prompt_cache_key: str | None


class _Event(msgspec.Struct, kw_only=True):
    sequence_number: int


class _Snapshot(_Event):
    response: Response


class Created(_Snapshot, tag="response.created"): ...


class Queued(_Snapshot, tag="response.queued"): ...


class InProgress(_Snapshot, tag="response.in_progress"): ...


class CompletedResponse(_Snapshot, tag="response.completed"): ...


class FailedResponse(_Snapshot, tag="response.failed"): ...


class IncompleteResponse(_Snapshot, tag="response.incomplete"): ...


class _OfItem(_Event):
    output_index: int
    item: OutputItem | None


class ItemAdded(_OfItem, tag="response.output_item.added"): ...


class ItemDone(_OfItem, tag="response.output_item.done"): ...


class _InItem(_Event):
    item_id: str
    output_index: int


class _InContent(_InItem):
    content_index: int


class PartAdded(_InContent, tag="response.content_part.added"):
    part: Part


class PartDone(_InContent, tag="response.content_part.done"):
    part: Part


class OutputTextDelta(_InContent, tag="response.output_text.delta"):
    delta: str
    logprobs: Logprobs = []


class OutputTextDone(_InContent, tag="response.output_text.done"):
    text: str
    logprobs: Logprobs = []


class ArgumentsDelta(_InItem, tag="response.function_call_arguments.delta"):
    delta: str


class ArgumentsDone(_InItem, tag="response.function_call_arguments.done"):
    arguments: str


StreamingEvent = (
    Created | Queued | InProgress | CompletedResponse | FailedResponse | IncompleteResponse
    | ItemAdded | ItemDone | PartAdded | PartDone
    | OutputTextDelta | OutputTextDone | ArgumentsDelta | ArgumentsDone
)  # fmt: skip
