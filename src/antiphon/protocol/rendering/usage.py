"""The ``usage`` object."""

from typing import Any

from antiphon.protocol.events import Usage


def usage_value(usage: Usage) -> dict[str, Any]:
    """Return token counts as completions show them. Audio and predictions are refused, so theirs are zero."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
