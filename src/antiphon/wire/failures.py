"""Which failures may pass by themselves. Follows the retry rules of the official client."""

from collections.abc import Mapping

TOO_MANY_REQUESTS = 429
SERVICE_UNAVAILABLE = 503
CONFLICT = 409
_TRANSIENT_BELOW_500 = frozenset({408, CONFLICT, TOO_MANY_REQUESTS})
LASTING_CODES = frozenset({"insufficient_quota"})
"""Error codes of refusals that last although their status is that of a passing one."""

_FIRST_SERVER_ERROR = 500
_TOO_LARGE = (
    "maximum context length",
    "max_tokens_per_request",
    "max 300000 tokens",
    "too large",
    "too long",
    "too many tokens",
)


def is_transient(status: int) -> bool:
    """Tell whether the same request may succeed later: 408, 409, 429 and every 5xx."""
    return status in _TRANSIENT_BELOW_500 or is_server_error(status)


def is_server_error(status: int) -> bool:
    return status >= _FIRST_SERVER_ERROR


def says_too_large(message: str) -> bool:
    """Tell whether a refusal of texts to embed is about their length: OpenAI gives it no code, only words, as others do."""
    return any(words in message.lower() for words in _TOO_LARGE)


def should_retry(headers: Mapping[str, str]) -> bool | None:
    """Return what ``x-should-retry`` says, which overrides the status; None if it is absent or neither true nor false."""
    value = next((value for name, value in headers.items() if name.lower() == "x-should-retry"), None)
    return {"true": True, "false": False}.get(value or "")
