"""What the engine's errors are on the wire."""

from collections.abc import Iterator
from contextlib import contextmanager

from antiphon.engine import errors
from antiphon.protocol.errors import ApiError, overloaded

_RETRY_AFTER_S = 1.0


@contextmanager
def engine_errors() -> Iterator[None]:
    """Turn an ``EngineError`` of the block into the ``ApiError`` that a client understands."""
    try:
        yield
    except errors.EngineError as error:
        raise as_api_error(error) from error


def as_api_error(error: errors.EngineError) -> ApiError:
    """Return the answer that tells a client what happened to its request."""
    match error:
        case errors.EngineOverloaded():
            return overloaded(error.retry_after_s)
        case errors.ContextOverflow():
            return ApiError(
                400,
                f"This model's maximum context length is {error.limit} tokens. However, your messages resulted in "
                f"{error.requested} tokens. Please reduce the length of the messages.",
                param="messages",
                code="context_length_exceeded",
            )
        case errors.DeadlineExceeded():
            return ApiError(
                503, f"The request did not finish in time. {error.message}", type="server_error", code="timeout"
            )
        case errors.InvalidPrompt() | errors.GrammarRejected():
            return ApiError(400, error.message)
        case errors.EngineCrashed():
            return ApiError(
                503,
                "The engine that served this request stopped unexpectedly and is being restarted; please try again.",
                type="server_error",
                code="engine_restarting",
                headers={"Retry-After": str(max(1, round(error.retry_after_s)))},
            )
        case _:
            return ApiError(
                503,
                f"The engine cannot serve this request: {error.message}",
                type="server_error",
                headers={"Retry-After": str(round(_RETRY_AFTER_S))},
            )
