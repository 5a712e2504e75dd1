"""What the guard of a call needs to know of requests to each path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from antiphon.toolkit.bulk.batchfile import as_object
from antiphon.toolkit.calls.caller import CHAT
from antiphon.toolkit.calls.guard import CallKind
from antiphon.toolkit.clients import Connection
from antiphon.toolkit.pacing.token_estimate import estimate_prompt
from antiphon.toolkit.usage import Usage

CHAT_PATH = "/chat/completions"


async def _prompt_tokens(_: Connection, body: Mapping[str, Any]) -> int:
    return estimate_prompt(body)


_KINDS = {
    CHAT_PATH: CHAT,
    "/completions": CallKind(_prompt_tokens, ("max_tokens",), "text_completion"),
    "/responses": CallKind(_prompt_tokens, ("max_output_tokens",)),
}


def kind_of(path: str) -> CallKind:
    """Return how requests to ``path`` are counted, and where they say how long an answer may be."""
    return _KINDS.get(path, CallKind(_prompt_tokens, operation=path.strip("/")))


def usage_in(body: Any) -> Usage | None:
    """Return the usage that an answer's body reports, or None."""
    return Usage.of_json(as_object(as_object(body).get("usage")))


def finish_reason_of(body: Mapping[str, Any]) -> str | None:
    """Return the finish reason of the first choice of an answer's body, or None."""
    choices: Any = body.get("choices")
    first = as_object(choices[0]) if isinstance(choices, list) and choices else {}
    reason = first.get("finish_reason")
    return reason if isinstance(reason, str) else None
