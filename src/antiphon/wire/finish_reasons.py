"""Why an answer ended, in the API's words, whatever a server calls it."""

from collections.abc import Mapping

STANDARD = frozenset({"stop", "length", "tool_calls", "content_filter", "function_call"})
_SYNONYMS = {
    "stop": (
        "eos", "eos_token", "eot", "end_turn", "stop_sequence", "stop_token", "end_of_text", "endoftext",
        "end", "complete", "completed", "finish", "finished", "done",
    ),
    "length": (
        "max_tokens", "max_length", "max_output_tokens", "max_new_tokens", "max_completion_tokens", "model_length",
        "token_limit", "length_limit", "context_length", "context_length_exceeded",
    ),
    "tool_calls": ("tool_call", "tool_use", "function_calls"),
    "content_filter": (
        "content_filtered", "safety", "blocked", "recitation", "prohibited_content", "blocklist", "spii",
        "refusal", "refused", "sensitive",
    ),
}  # fmt: skip
_REASONS: Mapping[str, str] = {word: reason for reason, words in _SYNONYMS.items() for word in words} | {
    word: word for word in STANDARD
}
_FAILURES = frozenset(
    {
        "error",
        "abort",
        "aborted",
        "cancelled",
        "canceled",
        "failed",
        "network_error",
        "insufficient_system_resource",
        "malformed_function_call",
        "unexpected_tool_call",
    }
)
_NONE = frozenset({"", "null", "none", "unspecified"})


def finish_reason(reason: str) -> str | None:
    """Return a finish reason in the API's words; None if it is not known, or says that the answer failed or goes on."""
    return _REASONS.get(_word(reason))


def says_failure(reason: str) -> bool:
    """Whether a finish reason says that the server gave up on the answer."""
    return _word(reason) in _FAILURES


def says_nothing(reason: str) -> bool:
    """Whether a finish reason is only a word for none."""
    return _word(reason) in _NONE


def _word(reason: str) -> str:
    word = reason.strip().lower().replace("-", "_").strip("<|>").removeprefix("finish_reason_")
    return word.removeprefix("finishreason.")  # an enumeration's member, printed
