"""OpenAI's error envelope: ``{"error": {"message", "type", "param", "code"}}``, all four keys always."""

from collections.abc import Mapping, Sequence

from antiphon.errors import AntiphonError

_MAX_MESSAGE = 4000
_MAX_PARAM = 500
"""Characters; messages quote what the client sent, which may be megabytes."""


class ApiError(AntiphonError):
    """An answer other than success, exactly as it goes over the wire.

    ``param`` is the path of the offending field (``messages[0].content``), ``headers`` are sent
    in addition to the standard ones (``Retry-After``, ``x-should-retry``).
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",  # noqa: A002 - the name on the wire
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(_shortened(message, _MAX_MESSAGE))
        self.status = status
        self.type = type
        self.param = None if param is None else _shortened(param, _MAX_PARAM)
        self.code = code
        self.headers: Mapping[str, str] = headers or {}

    def body(self) -> dict[str, dict[str, str | None]]:
        """Return the JSON value of the envelope."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


def _shortened(text: str, limit: int) -> str:
    """Leave out the middle of a text that is longer than ``limit`` characters."""
    half = (limit - 3) // 2
    return text if len(text) <= limit else f"{text[:half]}...{text[-half:]}"


def overloaded(retry_after_s: float) -> ApiError:
    """503: the queue is full or the engine is restarting; safe to retry after ``retry_after_s`` seconds."""
    return ApiError(
        503,
        "The engine is currently overloaded, please try again later",
        type="server_error",
        headers={"Retry-After": str(max(1, round(retry_after_s)))},
    )


def server_fault(request_id: str) -> ApiError:
    """500: our own fault; the request id is what finds it in the log."""
    return ApiError(
        500,
        "The server had an error while processing your request. Sorry about that! "
        f"Please look for request ID {request_id} in the server's log.",
        type="server_error",
    )


def model_not_found(model: str, served: Sequence[str] = ()) -> ApiError:
    """404 for a model that this server does not serve, or that this key may not use. ``served``: models that it may use."""
    names = f" Models that you can use: {', '.join(served)}." if served else ""
    return ApiError(
        404, f"The model `{model}` does not exist or you do not have access to it.{names}", code="model_not_found"
    )


def context_length_exceeded(limit: int, messages: int, functions: int = 0, *, at_least: bool = False) -> ApiError:
    """400: the prompt alone is longer than the context; counts are tokens, with ``at_least`` a lower bound."""
    parts = f" ({messages} in the messages, {functions} in the functions)" if functions else ""
    what = "messages or functions" if functions else "messages"
    return ApiError(
        400,
        f"This model's maximum context length is {limit} tokens. However, your messages resulted in "
        f"{'at least ' if at_least else ''}{messages + functions} tokens{parts}. Please reduce the length of the {what}.",
        param="messages",
        code="context_length_exceeded",
    )


def completion_too_long(limit: int, messages: int, completion: int) -> ApiError:
    """400: the messages fit into the context, but not together with the completion asked for; counts are tokens."""
    return ApiError(
        400,
        f"This model's maximum context length is {limit} tokens. However, you requested {messages + completion} tokens "
        f"({messages} in the messages, {completion} in the completion). "
        "Please reduce the length of the messages or completion.",
        param="messages",
        code="context_length_exceeded",
    )


def prompt_too_long(limit: int, prompt: int, completion: int, *, at_least: bool = False) -> ApiError:
    """400 in the older words, for a text and the completion asked for; ``prompt`` is with ``at_least`` a lower bound."""
    bound = "at least " if at_least else ""
    return ApiError(
        400,
        f"This model's maximum context length is {limit} tokens, however you requested {bound}{prompt + completion} tokens "
        f"({bound}{prompt} in your prompt; {completion} for the completion). Please reduce your prompt; or completion length.",
    )
