"""The engine's errors as API errors."""

from collections.abc import Generator
from contextlib import contextmanager

from antiphon.engine import errors
from antiphon.prompting.grammars.lark import in_one_line
from antiphon.protocol.errors import (
    ApiError,
    completion_too_long,
    context_length_exceeded,
    overloaded,
    prompt_too_long,
)

_RETRY_AFTER_S = 1.0


@contextmanager
def engine_errors(*, max_tokens: int | None = None, is_chat: bool = True) -> Generator[None]:
    """Turn an ``EngineError`` of the block into the ``ApiError`` that a client understands.

    ``max_tokens`` is what the request asked for; the message then splits the context into prompt and completion.
    """
    try:
        yield
    except errors.ContextOverflow as error:
        raise _overflow(error, max_tokens or 0, is_chat=is_chat) from error
    except errors.EngineError as error:
        raise as_api_error(error) from error


def _overflow(error: errors.ContextOverflow, completion: int, *, is_chat: bool) -> ApiError:
    prompt = error.requested - completion
    if not is_chat:
        return prompt_too_long(error.limit, prompt, completion, at_least=error.is_lower_bound)
    if prompt < error.limit and completion:
        return completion_too_long(error.limit, prompt, completion)
    return context_length_exceeded(error.limit, prompt, at_least=error.is_lower_bound)


def as_api_error(error: errors.EngineError) -> ApiError:
    """Return the API error that explains to the client what happened."""
    match error:
        case errors.EngineOverloaded():
            return overloaded(error.retry_after_s)
        case errors.ContextOverflow():
            return context_length_exceeded(error.limit, error.requested, at_least=error.is_lower_bound)
        case errors.DeadlineExceeded():
            return ApiError(
                503, f"The request did not finish in time. {error.message}", type="server_error", code="timeout"
            )
        case errors.InvalidPrompt() | errors.GrammarRejected():
            return ApiError(400, in_one_line(error.message))
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
