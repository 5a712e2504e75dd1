"""The shapes in which upstreams answer, as far as they are read; every other field is skipped.

They follow OpenAI's document where it speaks, and for ``reasoning_content`` / ``reasoning`` the usage of vLLM, SGLang and
llama.cpp. Types are wide where servers differ: a field that cannot be read must not cost the user an answer.
"""

from typing import Any, cast

import msgspec

from antiphon.backends.upstream.sse import MalformedStream
from antiphon.protocol.events import Usage

ABSENT = frozenset({b"", b"null"})
"""The JSON text of a field that was not sent, or says nothing."""
MAX_TOKENS = 10**9
"""More is not a count of one request's tokens: the longest contexts have some millions."""


class ErrorChunk(Exception):  # noqa: N818 - what the answer carried
    """A stream ended with an error, or a whole answer is one; ``error`` is its JSON text."""

    def __init__(self, error: bytes) -> None:
        super().__init__(error)
        self.error = error


class UsageBody(msgspec.Struct):
    prompt_tokens: Any = None
    completion_tokens: Any = None
    total_tokens: Any = None
    prompt_tokens_details: Any = None
    completion_tokens_details: Any = None


_usage = msgspec.json.Decoder(UsageBody)
_object = msgspec.json.Decoder(dict[str, Any])


def read_usage(text: msgspec.Raw, *, has_output: bool = True) -> Usage | None:
    """Return the usage in the JSON text of a ``usage`` field; None if there is none, or its counts cannot be read.

    A count of 0 that was not sent would be a free answer, so None makes the ledger estimate. ``has_output`` is False for
    embeddings, which have no completion tokens.
    """
    if bytes(text) in ABSENT:
        return None
    try:
        body = _usage.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    prompt, completion, total = map(_count, (body.prompt_tokens, body.completion_tokens, body.total_tokens))
    if completion is None:
        completion = total - prompt if total is not None and prompt is not None else None if has_output else 0
    if prompt is None and total is not None and completion is not None:
        prompt = total - completion
    if prompt is None or completion is None or prompt < 0 or completion < 0:
        return None
    cached = _detail(body.prompt_tokens_details, "cached_tokens", prompt)
    return Usage(prompt, completion, cached, _detail(body.completion_tokens_details, "reasoning_tokens", completion))


def _count(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_TOKENS:
        return None
    return int(value)


def _detail(details: Any, name: str, most: int) -> int:
    """Return a share of a count; 0 if it was not sent, or is more than the whole."""
    share = _count(cast("dict[str, Any]", details).get(name)) if isinstance(details, dict) else None
    return share if share is not None and share <= most else 0


_NO_ERROR = frozenset({b"", b"null", b"false", b"{}", b'""'})


_ANSWER_FIELDS = frozenset({"choices", "data", "usage"})


class PeekedFunctionCall(msgspec.Struct):
    arguments: str | None = None


class PeekedMessage(msgspec.Struct):
    """Types are OpenAI's, so that another one is found when the JSON is read."""

    content: str | None = None
    function_call: PeekedFunctionCall | None = None


class PeekedChoice(msgspec.Struct):
    """``text`` is what completions have in place of a ``message`` or ``delta``."""

    index: int
    finish_reason: str | None = None
    delta: PeekedMessage | None = None
    message: PeekedMessage | None = None
    text: msgspec.Raw = msgspec.Raw()


def read_object(text: bytes) -> dict[str, Any]:
    """Return a JSON object; ``MalformedStream`` if the bytes are not one."""
    try:
        return _object.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedStream(f"data that is not a JSON object ({error})") from None


def error_of(value: dict[str, Any], *, is_error: bool = False) -> bytes | None:
    """Return the JSON text of the error that a chunk or an answer carries, None if it carries none.

    ``is_error``: the event's own name says so. Some servers send the error's fields without an ``error`` around them.
    """
    if error := value.get("error"):
        return msgspec.json.encode(error)
    if is_error or value.get("object") == "error" or value.get("type") == "error":
        return msgspec.json.encode(value)
    if not value.keys() & _ANSWER_FIELDS:
        for field in ("detail", "message"):
            if isinstance(value.get(field), str | list) and value[field]:
                return msgspec.json.encode({**value, "message": value[field]})
    return None


def error_of_event(payload: bytes) -> bytes:
    """Return the JSON text of the error that an event named ``error`` carries, which may be plain text."""
    try:
        value = read_object(payload)
    except MalformedStream:
        return msgspec.json.encode(payload.decode("utf-8", "replace"))
    return error_of(value, is_error=True) or payload


class PeekedAnswer(msgspec.Struct):
    """What is read of an answer, or of a stream's chunk, that is passed on. ``data`` is what embeddings have for choices."""

    model: str | None = None
    choices: list[PeekedChoice] | None = None
    usage: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()
    data: msgspec.Raw = msgspec.Raw()

    @property
    def is_error(self) -> bool:
        return bytes(self.error) not in _NO_ERROR


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
    usage: msgspec.Raw = msgspec.Raw()
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
    usage: msgspec.Raw = msgspec.Raw()
    system_fingerprint: str | None = None


class EmbeddingBody(msgspec.Struct):
    embedding: list[float] | str
    index: int | None = None


class EmbeddingsBody(msgspec.Struct):
    data: list[EmbeddingBody]
    model: str | None = None
    usage: msgspec.Raw = msgspec.Raw()


class RankedBody(msgspec.Struct):
    index: int
    relevance_score: float


class RerankBody(msgspec.Struct):
    results: list[RankedBody]
    model: str | None = None
    usage: msgspec.Raw = msgspec.Raw()


class ModelBody(msgspec.Struct):
    """``max_model_len`` is vLLM's and SGLang's, ``context_length`` and ``kind`` are another Antiphon's."""

    id: str
    created: Any = None
    owned_by: Any = None
    max_model_len: Any = None
    context_length: Any = None
    kind: Any = None


class ModelsBody(msgspec.Struct):
    """``data`` is null where Ollama has no model yet."""

    data: list[ModelBody] | None


class TokenizeBody(msgspec.Struct):
    count: int
