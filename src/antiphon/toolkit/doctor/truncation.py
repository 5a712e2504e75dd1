"""Why an answer ends where it ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from antiphon.toolkit.bulk.batchfile import as_object
from antiphon.toolkit.doctor.findings import Finding

CHECK = "answer"


def explain_answer(answer: Mapping[str, Any], *, max_tokens: int | None = None, context: int | None = None) -> Finding:
    """Explain the finish reason of a chat completion (its JSON).

    ``max_tokens`` is what the request asked for and ``context`` the model's context length, both in tokens; where they
    are None the explanation names both possible causes.
    """
    choices = answer.get("choices")
    choice = as_object(choices[0]) if isinstance(choices, list) and choices else {}
    reason = choice.get("finish_reason")
    usage = as_object(answer.get("usage"))
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if reason == "length":
        return _cut(prompt, completion, max_tokens, context)
    if reason == "content_filter":
        return Finding(CHECK, "problem", "A content filter cut the answer", "reword the request")
    if reason in {"stop", "tool_calls", "function_call"}:
        return Finding(CHECK, "ok", f"complete (finish_reason {reason!r}), {completion} tokens")
    return Finding(
        CHECK,
        "problem",
        f"No finish reason ({reason!r}): the stream ended early, or this is not a chat completion",
        "read to the end of the stream; look for an error in its last chunk",
    )


def _cut(prompt: int | None, completion: int | None, max_tokens: int | None, context: int | None) -> Finding:
    size = f"after {completion} tokens" if completion is not None else "before its end"
    if context is not None and prompt is not None and completion is not None and prompt + completion >= context:
        message = f"The answer is cut {size}: prompt ({prompt}) and answer fill the context of {context} tokens"
        return Finding(
            CHECK, "problem", message, "shorten the prompt: trim the history, or retrieve chunks with an Index"
        )
    if max_tokens is not None and completion is not None and completion >= max_tokens:
        message = f"The answer is cut {size}, since the request allows max_completion_tokens={max_tokens}"
        return Finding(
            CHECK, "problem", message, f"max_completion_tokens={2 * max_tokens}   # or continue it: chat.continue_()"
        )
    message = f"The answer is cut {size}: at max_tokens of the request, or at the model's context length"
    return Finding(CHECK, "problem", message, "raise max_completion_tokens, or shorten the prompt")
