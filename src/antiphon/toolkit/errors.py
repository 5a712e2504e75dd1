"""What the toolkit raises. Errors of the official client pass through unchanged, unless named here as a cause.

ToolkitError                 hint = the next step; text, usage = what was already produced and paid for
├── ClientError              no usable client: the key is missing, or the wrong kind of client was passed
├── TokenizerError           tokens cannot be counted exactly, and an estimate was not wanted
├── UnknownPriceError        dollars were limited, and the model has no known price
├── BudgetExceededError      stopped before a call that the budget does not cover
├── HistoryError             a conversation that cannot be sent: does not fit, or is not well formed
├── SchemaError              a function or a type that cannot be described to a model
├── ToolsPendingError        calls of tools wait for approval; Chat.resume goes on
├── ToolServerError          an MCP server that cannot be used, or whose tool failed
├── ToolLoopError            the model kept calling tools past the bound on turns or time
├── OutputError              the model's answer cannot be used
│   ├── TruncatedError       cut at the token limit before it was complete
│   ├── RefusalError         the model declined
│   ├── StreamError          a stream that broke off; keeps the text that came
│   └── ExtractionError      the answer failed validation on every attempt; keeps the attempts
├── EvaluationError          cases, scores or a saved result that cannot be used
├── NoModelError             no model satisfies what the task needs
├── RetryExhaustedError      a retry policy gave up; the client's own error is its cause
├── CircuitOpenError         not sent: the endpoint failed repeatedly and is left alone for a while
├── CacheError               a cache file that cannot be opened or read
├── EmbeddingError           a text that cannot be embedded, or vectors that cannot be used together
├── IndexingError            an index file or a document that cannot be used
│   └── FilterError          a metadata filter that is not understood
└── BulkError                a run of many requests
    ├── BatchFileError       a line of a batch file that cannot be read; names the line
    ├── JournalError         the record of a run cannot be used, or belongs to other requests
    └── RequestTooLargeError a request larger than the limit per minute: it could never be sent
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from antiphon.errors import AntiphonError

if TYPE_CHECKING:
    from antiphon.toolkit.record import Attempt, ToolCall
    from antiphon.toolkit.usage import Usage


class ToolkitError(AntiphonError):
    """Something the application can act on.

    ``text`` is the part of the answer that arrived ("" if none) and ``usage`` what was spent on it
    (None if no call was made, or the server did not say).
    """

    def __init__(self, message: str, *, hint: str = "", text: str = "", usage: Usage | None = None) -> None:
        super().__init__(message, hint=hint)
        self.text = text
        self.usage = usage


class ClientError(ToolkitError):
    """There is no client to call with."""


class TokenizerError(ToolkitError):
    """Tokens cannot be counted exactly."""


class UnknownPriceError(ToolkitError):
    """A limit in dollars cannot be kept, since the model's price is unknown."""


class BudgetExceededError(ToolkitError):
    """The call was not made, since the budget does not cover it."""


class HistoryError(ToolkitError):
    """The conversation cannot be sent as it is."""


class SchemaError(ToolkitError):
    """A function or a type cannot be described to a model."""


class ToolsPendingError(ToolkitError):
    """The model called tools that need approval, and the chat has nobody to ask; ``calls`` are those that wait.

    The chat keeps the turn: ``resume`` goes on with it, here or after ``save`` and ``load`` in another process.
    """

    def __init__(self, calls: tuple[ToolCall, ...], *, usage: Usage | None = None) -> None:
        names = ", ".join(f"{call.name} ({call.id})" for call in calls)
        hint = "chat.resume({id: True or False, ...}), or pass approve= to the chat"
        super().__init__(f"Calls of tools wait for approval: {names}", hint=hint, usage=usage)
        self.calls = calls


class ToolServerError(ToolkitError):
    """An MCP server cannot be reached or used, or a call of its tool failed."""


class ToolLoopError(ToolkitError):
    """The model kept calling tools past the bound."""


class OutputError(ToolkitError):
    """The answer cannot be used as asked."""


class TruncatedError(OutputError):
    """The answer was cut at the token limit before it was complete."""


class RefusalError(OutputError):
    """The model declined; ``text`` is its refusal."""


class StreamError(OutputError):
    """The stream ended before the answer did; ``text`` is what came."""


class ExtractionError(OutputError):
    """The answer failed validation on every attempt; ``attempts`` has each text, its usage and what was wrong."""

    def __init__(self, message: str, *, attempts: tuple[Attempt, ...], usage: Usage | None = None) -> None:
        hint = "loosen the validators, describe the fields, raise attempts=, or use a larger model"
        super().__init__(message, hint=hint, text=attempts[-1].text, usage=usage)
        self.attempts = attempts


class EvaluationError(ToolkitError):
    """Cases, scores or a saved result of an evaluation cannot be used."""


class NoModelError(ToolkitError):
    """No known model satisfies what the task needs."""


class RetryExhaustedError(ToolkitError):
    """The retry policy gave up; ``__cause__`` is the last error of the client."""


class CircuitOpenError(ToolkitError):
    """The call was not made: the circuit is open; ``retry_in_s`` seconds are left until the next trial."""

    def __init__(self, message: str, *, retry_in_s: float, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.retry_in_s = retry_in_s


class CacheError(ToolkitError):
    """A cache file cannot be opened or read; the hint is the step to take."""


class EmbeddingError(ToolkitError):
    """A text cannot be embedded (``text`` is it), or vectors do not belong together."""


class IndexingError(ToolkitError):
    """An index file or a document cannot be used."""


class FilterError(IndexingError):
    """A metadata filter is not understood."""


class BulkError(ToolkitError):
    """A run of many requests cannot go on."""


class BatchFileError(BulkError):
    """A line of a batch file cannot be read; the message names the file and the line."""


class JournalError(BulkError):
    """The journal of a run cannot be used, or belongs to other requests."""


class RequestTooLargeError(BulkError):
    """A request needs more tokens than the limit allows in a minute, so it could never be sent."""

    def __init__(self, tokens: int, limit: int) -> None:
        super().__init__(
            f"The request needs {tokens} tokens, and the limit is {limit} tokens per minute: it can never be sent",
            hint="lower its max_tokens, shorten its input, or raise tpm if your account has more",
        )
        self.tokens = tokens
        self.limit = limit
