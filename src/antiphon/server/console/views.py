"""JSON views of requests: those in the ledger, those in flight, and captured contents."""

import time
from typing import Any

import msgspec

from antiphon.accounts.request_log import LoggedRequest
from antiphon.accounts.usage import UsageRow
from antiphon.backends.key_redaction import text_without_keys
from antiphon.backends.trace import CapturedToken, RouteAttempt
from antiphon.server.request.call import Call
from antiphon.server.request.capture import CapturedRequest
from antiphon.server.request.live import LiveRequest

Json = dict[str, Any]
# Of rows that an older version wrote.
_DEFAULT_PATHS = {
    "chat": "/v1/chat/completions",
    "completion": "/v1/completions",
    "embedding": "/v1/embeddings",
    "rerank": "/v1/rerank",
    "tokenize": "/tokenize",
}


def row_view(row: UsageRow, key_name: str | None) -> Json:
    """Return one line of the list. Times are in seconds, ``at`` since 1970; ``usd`` is None where no price is known."""
    return {
        "id": row.id,
        "request_id": row.request_id,
        "at": row.at_ms / 1000,
        "key_id": row.key_id,
        "key": key_name,
        "path": row.path or _DEFAULT_PATHS.get(row.kind, ""),
        "kind": row.kind,
        "model": row.model_asked,
        "answered_by": row.model_answered,
        "status": row.status,
        "error": row.error_code,
        "prompt_tokens": row.prompt_tokens,
        "completion_tokens": row.completion_tokens,
        "cached_tokens": row.cached_tokens,
        "reasoning_tokens": row.reasoning_tokens,
        "is_estimate": row.is_estimate,
        "cache": row.cache,
        "usd": row.usd,
        "ttft_s": row.ttft_s,
        "duration_s": row.duration_s,
        "compute_s": row.compute_s,
        "queue_s": row.queue_s,
        "prefill_s": row.prefill_s,
    }


def logged_view(logged: LoggedRequest) -> Json:
    """Return a request that is over, with its attempts."""
    attempts = [] if logged.row.attempts is None else msgspec.json.decode(logged.row.attempts, type=list[RouteAttempt])
    return {**row_view(logged.row, logged.key_name), "attempts": msgspec.to_builtins(attempts)}


def live_view(call: Call, request: LiveRequest) -> Json:
    """Return a request that is in flight; the same fields as far as they are known."""
    usage = request.meter.usage
    return {
        "request_id": call.request_id,
        "at": call.started_at,
        "key": call.note.get("key"),
        "path": call.scope["path"],
        "model": call.note.get("model"),
        "answered_by": request.model,
        "phase": "waiting" if request.first_token_s is None else "generating",
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "cached_tokens": usage.cached_tokens,
        "ttft_s": request.first_token_s,
        "duration_s": call.elapsed_s(),
        "queue_s": call.trace.queue_s,
        "prefill_s": call.trace.prefill_s,
    }


def captured_view(captured: CapturedRequest, age_limit_s: float) -> Json:
    """Return the contents of a captured request: what was sent, what the model saw, what it said with which probability."""
    contents = captured.contents
    return {
        "path": captured.path,
        "headers": captured.headers,
        "request": contents.request.decode(errors="replace"),
        "prompt": [{"text": text, "special": is_special} for text, is_special in contents.prompt],
        "grammar": contents.grammar,
        "tokens": [_token(token) for token in contents.tokens],
        "answer": text_without_keys(b"".join(contents.answer).decode(errors="replace")),
        "message": captured.trace.message,
        "is_cut": contents.is_cut,
        "kept_s": max(0.0, age_limit_s - (time.monotonic() - captured.at)),
    }


def _token(token: CapturedToken) -> Json:
    known = token.logprob
    return {
        "index": token.index,
        "text": known.token,
        "logprob": None if known.logprob is None else max(known.logprob, -9999.0),
        "top": [{"text": top.token, "logprob": max(top.logprob, -9999.0)} for top in known.top_logprobs],
    }
