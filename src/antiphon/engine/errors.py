"""The errors of a model's engine.

EngineError
├── EngineStartFailed   the process could not load the model (reason and next step in message and hint)
├── EngineStopped       the engine was closed
├── EngineCrashed       the process died or hung during the request, or is not back yet
├── EngineOverloaded    the queue is full
├── EngineFault         this request failed inside a healthy engine
├── ContextOverflow     prompt (and completion) do not fit the context
├── DeadlineExceeded    the request's own deadline passed
├── InvalidPrompt       token ids out of range, an empty prompt, a model of the wrong kind
└── GrammarRejected     the grammar does not compile, or cannot be followed with this vocabulary
"""

from antiphon.engine.ipc.messages import Failed
from antiphon.errors import AntiphonError


class EngineError(AntiphonError):
    """The root of the engine's errors."""


class EngineStartFailed(EngineError):  # noqa: N818 - named after what happened
    """The engine's process ended, or refused, before the model was ready."""


class EngineStopped(EngineError):  # noqa: N818 - named after what happened
    """The engine was closed while, or before, the request ran."""


class EngineCrashed(EngineError):  # noqa: N818 - named after what happened
    """The process died during the request, or is not back. ``retry_after_s`` is when the next one may be ready."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message, hint="Send the request again after the engine has restarted.")
        self.retry_after_s = retry_after_s


class EngineOverloaded(EngineError):  # noqa: N818 - named after what happened
    """As many requests wait as the queue may hold."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message, hint="Send the request again later, or raise `max_queue`.")
        self.retry_after_s = retry_after_s


class EngineFault(EngineError):  # noqa: N818 - named after what happened
    """The request failed inside the engine, which goes on serving others."""


class ContextOverflow(EngineError):  # noqa: N818 - named after what happened
    """``requested`` tokens do not fit into ``limit``; nothing was computed.

    With ``is_lower_bound`` the text was so long that it was not even tokenised: there are at least ``requested``.
    """

    def __init__(self, message: str, *, limit: int, requested: int, is_lower_bound: bool = False) -> None:
        super().__init__(message, hint="Shorten the prompt, or serve the model with a larger `context_size`.")
        self.limit = limit
        self.requested = requested
        self.is_lower_bound = is_lower_bound


class DeadlineExceeded(EngineError):  # noqa: N818 - named after what happened
    """The request's ``deadline_s`` passed before it was complete."""


class InvalidPrompt(EngineError):  # noqa: N818 - named after what happened
    """This model cannot take the prompt."""


class GrammarRejected(EngineError):  # noqa: N818 - named after what happened
    """The constraint cannot be enforced; the message is the grammar compiler's."""


def error_of(failed: Failed) -> EngineError:
    """Return the exception for a ``Failed`` answer."""
    match failed.kind:
        case "overloaded":
            return EngineOverloaded(failed.message, retry_after_s=failed.retry_after_s or 1.0)
        case "context":
            return ContextOverflow(
                failed.message,
                limit=failed.limit,
                requested=failed.requested,
                is_lower_bound=failed.is_lower_bound,
            )
        case "deadline":
            return DeadlineExceeded(failed.message)
        case "invalid":
            return InvalidPrompt(failed.message)
        case "grammar":
            return GrammarRejected(failed.message)
        case "internal":
            return EngineFault(failed.message)
