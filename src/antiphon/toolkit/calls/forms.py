"""In which form a call goes out: to chat completions or to responses, and without which parameters.

A request is kept in the form of chat completions. What an endpoint takes is known from a table (``model_families``) for
OpenAI's models and learnt from refusals elsewhere: an endpoint without ``/responses``, a model whose tools need it, a
parameter that a model does not take. What was learnt is remembered per endpoint and model for the life of the process.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from openai import APIStatusError

from antiphon.toolkit.calls.model_families import family_of
from antiphon.toolkit.calls.responses_form import CHAT_ONLY, responses_request
from antiphon.toolkit.clients import Endpoint, is_about_model
from antiphon.toolkit.errors import ToolkitError
from antiphon.toolkit.messages import plain_messages

Api = Literal["auto", "chat", "responses"]
Route = Literal["chat", "responses"]

_NO_ROUTE = {404, 405, 501}
_REFUSED = {400, 404, 422}
# What an answer can do without. Any other parameter that is refused is the caller's to take back.
_DISPENSABLE = {
    "temperature",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "top_logprobs",
}
_RENAMED = {"max_tokens": "max_completion_tokens"}
_UNSUPPORTED = {"unsupported_parameter", "unsupported_value"}
_SAYS_UNSUPPORTED = re.compile(r"unsupported|not supported|does not support", re.IGNORECASE)
_SAYS_RESPONSES = re.compile(r"v1/responses|responses api", re.IGNORECASE)
_MAX_REMEMBERED = 10_000


@dataclass(slots=True)
class _Learnt:
    """What refusals told about a model at an endpoint."""

    refused: set[str] = field(default_factory=set[str])
    needs_responses: bool = False


@dataclass(frozen=True, slots=True)
class Form:
    """A request as it goes out: the client's keyword arguments for ``route``. ``left_out`` was asked for and is not in it."""

    route: Route
    arguments: dict[str, Any]
    left_out: tuple[str, ...]


class Forms:
    """What is known about endpoints. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._learnt: dict[tuple[str, str], _Learnt] = {}
        self._without_responses: set[str] = set()

    def form(
        self,
        request: Mapping[str, Any],
        endpoint: Endpoint,
        *,
        api: Api = "auto",
        optional: frozenset[str] = frozenset(),
    ) -> Form:
        """Return the form for ``request``; ``optional`` names what the toolkit itself added to it.

        Raises ToolkitError for a request that only chat completions take, where ``api`` asks for responses.
        """
        family, learnt = family_of(request["model"], endpoint), self._of(endpoint, request["model"])
        refused = self.refused(request, endpoint)
        sent = {key: value for key, value in request.items() if key not in refused}
        for name in _RENAMED.keys() & set(refused):
            sent.setdefault(_RENAMED[name], request[name])
        left_out = tuple(name for name in refused if name not in optional and name not in _RENAMED)
        gains = family.reasons or learnt.needs_responses
        if self._route(sent, endpoint, api, gains=gains) == "responses":
            return Form("responses", responses_request(sent, endpoint), left_out)
        is_strict = endpoint.is_openai or endpoint.is_azure
        sent["messages"] = plain_messages(request["messages"], with_reasoning=not is_strict)
        return Form("chat", *_with_effort(sent, left_out))

    def refused(self, request: Mapping[str, Any], endpoint: Endpoint) -> list[str]:
        """Return the parameters of ``request`` that its model is known to refuse."""
        family, learnt = family_of(request["model"], endpoint), self._of(endpoint, request["model"])
        return [name for name in request if name in learnt.refused or family.refuses(name, request)]

    def learn(self, error: APIStatusError, form: Form, model: str, endpoint: Endpoint, *, api: Api) -> bool:
        """Take in a refusal; returns whether the call has another form now, in which it may be tried at once."""
        learnt = self._of(endpoint, model)
        with self._lock:
            if api == "auto" and form.route == "responses" and _has_no_route(error):
                self._without_responses.add(endpoint.base_url)
                return True
            if api == "auto" and form.route == "chat" and _asks_for_responses(error) and not learnt.needs_responses:
                learnt.needs_responses = True
                return endpoint.base_url not in self._without_responses
            name = _refused_parameter(error, form.arguments)
            if name is None or name in learnt.refused:
                return False
            learnt.refused.add(name)
            return True

    def forget(self) -> None:
        """Forget what was learnt."""
        with self._lock:
            self._learnt.clear()
            self._without_responses.clear()

    def _of(self, endpoint: Endpoint, model: str) -> _Learnt:
        with self._lock:
            if len(self._learnt) >= _MAX_REMEMBERED:
                self._learnt.clear()
            return self._learnt.setdefault((endpoint.base_url, model), _Learnt())

    def _route(self, request: Mapping[str, Any], endpoint: Endpoint, api: Api, *, gains: bool) -> Route:
        chat_only = [name for name in CHAT_ONLY if name in request and request[name] is not None]
        if api == "responses" and chat_only:
            raise ToolkitError(
                f"The responses API does not take {chat_only!r}", hint="leave them out, or use api='chat'"
            )
        if api != "auto":
            return api
        return "responses" if gains and not chat_only and endpoint.base_url not in self._without_responses else "chat"


FORMS = Forms()
"""What this process has learnt."""


def _with_effort(request: dict[str, Any], left_out: tuple[str, ...]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Write ``reasoning`` as chat completions have it: the effort alone."""
    reasoning: Mapping[str, Any] = request.pop("reasoning", None) or {}
    if "effort" in reasoning:
        request.setdefault("reasoning_effort", reasoning["effort"])
    return request, (*left_out, *(f"reasoning.{name}" for name in reasoning if name != "effort"))


def _has_no_route(error: APIStatusError) -> bool:
    return error.status_code in _NO_ROUTE and not is_about_model(error)


def _asks_for_responses(error: APIStatusError) -> bool:
    return error.status_code in _REFUSED and _SAYS_RESPONSES.search(error.message) is not None


def _refused_parameter(error: APIStatusError, arguments: Mapping[str, Any]) -> str | None:
    """Return the parameter that was refused as such, if the call can be made without it or with its other name."""
    if error.status_code not in _REFUSED:
        return None
    if error.code not in _UNSUPPORTED and not _SAYS_UNSUPPORTED.search(error.message):
        return None
    named = [name for name in (*_DISPENSABLE, *_RENAMED) if name in arguments]
    by_param = [name for name in named if name == error.param]
    by_text = [name for name in named if re.search(rf"['\"`]{name}['\"`]", error.message)] if not error.param else []
    return next(iter((*by_param, *by_text)), None)
