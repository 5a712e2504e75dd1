"""What OpenAI's families of models refuse, and which of them reason.

OpenAI publishes no such table. Source: its guides "Reasoning models" and "Using GPT-5", and the errors that users
reported until 2026-11. It holds at OpenAI and Azure only: a model of such a name elsewhere is another model. What it
does not know, ``Forms`` learns from the endpoint's own errors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from antiphon.toolkit.clients import Endpoint

_SAMPLING = frozenset({"temperature", "top_p", "presence_penalty", "frequency_penalty", "logit_bias"})
_REFUSED = _SAMPLING | {"logprobs", "top_logprobs", "max_tokens"}


@dataclass(frozen=True, slots=True)
class ModelFamily:
    """What the models of a family do.

    ``refused`` are parameters that they do not take while they reason; with an effort of "none" a family that
    ``may_not_reason`` takes them.
    """

    reasons: bool = False
    may_not_reason: bool = False
    refused: frozenset[str] = frozenset()

    def refuses(self, name: str, request: Mapping[str, Any]) -> bool:
        """Tell whether ``request``, in the form of chat completions, may not hold the parameter ``name``."""
        reasoning: Mapping[str, Any] = request.get("reasoning") or {}
        is_off = "none" in {request.get("reasoning_effort"), reasoning.get("effort")}
        # The older name of the limit is refused in any case.
        return name in self.refused and not (self.may_not_reason and is_off and name != "max_tokens")


_PLAIN = ModelFamily()
_REASONING = ModelFamily(reasons=True, refused=_REFUSED)
_FAMILIES = (
    (re.compile(r"gpt-\d+(\.\d+)?-(chat|audio|image|realtime|transcribe|tts|search)"), _PLAIN),
    (re.compile(r"gpt-(5\.\d|[6-9])"), ModelFamily(reasons=True, may_not_reason=True, refused=_REFUSED)),
    (re.compile(r"gpt-5(-|$)"), _REASONING),
    (re.compile(r"o\d(-|$)|codex-|computer-use-"), _REASONING),
)


def family_of(model: str, endpoint: Endpoint) -> ModelFamily:
    """Return what is known of ``model`` at ``endpoint``; nothing is refused by a model that is not known."""
    if not (endpoint.is_openai or endpoint.is_azure):
        return _PLAIN
    # A fine-tuned model is called "ft:gpt-4o:...".
    name = model.removeprefix("ft:").lower()
    return next((family for pattern, family in _FAMILIES if pattern.match(name)), _PLAIN)
