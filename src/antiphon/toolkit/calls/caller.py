"""Calls of chat models: the response cache, then the way of every call (``CallGuard``)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from openai import APIStatusError
from openai.types import CompletionUsage
from openai.types.chat import ChatCompletion

from antiphon.toolkit.arguments import require_one_of
from antiphon.toolkit.calls.call_events import OnCallEvent
from antiphon.toolkit.calls.dialects import require_completion
from antiphon.toolkit.calls.forms import FORMS, Api, Form, Route
from antiphon.toolkit.calls.guard import AnswerFacts, CallGuard, CallKind, ModelCall
from antiphon.toolkit.calls.options import CallOptions
from antiphon.toolkit.calls.responses_form import completion_of, sealer
from antiphon.toolkit.calls.streaming import Piece, Read, read_chunks, read_response_events
from antiphon.toolkit.clients import ApiResponse, Connection, EventStream
from antiphon.toolkit.errors import OutputError, ToolkitError
from antiphon.toolkit.messages import reasoning_text
from antiphon.toolkit.observing import event
from antiphon.toolkit.record import CallRecord, Timing
from antiphon.toolkit.tokens.count import count_through
from antiphon.toolkit.usage import Usage


async def _prompt_tokens(connection: Connection, request: Mapping[str, Any]) -> int:
    counted = await count_through(connection, request["messages"], request["model"], request.get("tools") or ())
    return counted.tokens


_PATHS: dict[Route, str] = {"chat": "/chat/completions", "responses": "/responses"}
CHAT = CallKind(_prompt_tokens, ("max_completion_tokens", "max_tokens"))


@dataclass(frozen=True, slots=True)
class CompletedCall:
    """An answer and its record; ``response`` is the client's ``Response`` where it came by the Responses API."""

    completion: ChatCompletion
    record: CallRecord
    response: Any = None


def facts_of(completion: ChatCompletion) -> AnswerFacts:
    """Return what a completion tells about itself."""
    finish_reason = completion.choices[0].finish_reason if completion.choices else None
    tier: Any = getattr(completion, "service_tier", None)
    return AnswerFacts(usage_of(completion), completion.model, finish_reason, tier if isinstance(tier, str) else None)


def usage_of(answer: object) -> Usage | None:
    """Return the usage that an answer of any form reports, or None."""
    told: Any = getattr(answer, "usage", None)
    return Usage.of(told) if isinstance(told, CompletionUsage) else None


class ModelCaller:
    """Calls chat models of one endpoint (and of its fallbacks') with the options given.

    ``api`` says whether requests, which are in the form of chat completions, go out in that of responses.
    """

    def __init__(
        self,
        connection: Connection,
        options: CallOptions,
        *,
        api: Api = "auto",
        on_event: OnCallEvent | None = None,
    ) -> None:
        require_one_of("api", api, Api)
        self.connection = connection
        self._guard = CallGuard(connection, options, on_event=on_event)
        self._cache = options.get("cache")
        self._api: Api = api

    def cached(self, request: Mapping[str, Any]) -> CompletedCall | None:
        """Return the answer that the response cache keeps for ``request``, or None."""
        kept = self._key(request)
        completion = None if self._cache is None else self._cache.get(self.connection.endpoint, kept)
        if completion is None:
            return None
        event("antiphon.cache_hit", {"gen_ai.request.model": request["model"]})
        usage = usage_of(completion)
        record = CallRecord(
            model=request["model"],
            answered_by=completion.model,
            usage=usage,
            cost=Decimal(0),
            timing=Timing(0.0),
            finish_reason=completion.choices[0].finish_reason,
            request_id=None,
            from_cache=True,
            saved_by_cache=None if usage is None else self._guard.cost(usage, request["model"], self.connection),
        )
        self._guard.ended(record)
        return CompletedCall(completion, record)

    def store(self, request: Mapping[str, Any], completion: ChatCompletion) -> None:
        """Offer an answer to the response cache, which keeps it if the call is deterministic."""
        if self._cache is not None:
            self._cache.put(self.connection.endpoint, self._key(request), completion)

    async def complete(self, request: Mapping[str, Any], *, optional: frozenset[str] = frozenset()) -> CompletedCall:
        """Make the call and return its answer; ``request`` holds the client's keyword arguments for chat completions.

        ``optional`` names those that the toolkit added: a model that refuses them is asked without. Raises the client's
        errors, and ToolkitErrors of the options in use.
        """
        if (kept := self.cached(request)) is not None:
            return kept
        forms = _CallForms(self._api, optional)

        async def send(call: ModelCall) -> ApiResponse[Any]:
            form = forms.next_of(call)
            post = call.connection.respond if form.route == "responses" else call.connection.chat
            return await post(form.arguments, max_retries=self._guard.max_retries)

        call, answer = await self._guard.answer(CHAT, request, send, adapt=forms.adapt)
        async with call.held:
            call.note(answer.headers, answer.num_retries)
            response = None
            try:
                value = answer.value
                if forms.current.route == "responses":
                    response = value
                    value = completion_of(value, sealer(call.model, call.connection.endpoint)) or value
                completion = require_completion(value)
            except OutputError as error:
                error.usage = call.finish(AnswerFacts(usage_of(answer.value), "")).usage
                raise
            record = call.finish(facts_of(completion))
        if not call.failed_over:
            self.store(request, completion)
        return CompletedCall(completion, record, response)

    async def stream(
        self, request: Mapping[str, Any], *, optional: frozenset[str] = frozenset()
    ) -> AsyncGenerator[Piece | CompletedCall]:
        """Yield pieces of the answer as they come, then the whole; an answer from the response cache is one piece.

        Retries and fallbacks apply until the stream is open. Leaving early finishes the call as one whose usage was not
        told. Raises what ``complete`` raises, and StreamError.
        """
        if (request.get("n") or 1) != 1:
            raise ToolkitError("A stream has one answer, and several were asked for", hint="use send(n=...)")
        if (kept := self.cached(request)) is not None:
            message = kept.completion.choices[0].message
            yield Piece(message.content or "", reasoning_text(message.to_dict(warnings=False)) or "")
            yield kept
            return
        forms = _CallForms(self._api, optional)

        async def send(call: ModelCall) -> EventStream[Any]:
            form = forms.next_of(call)
            if form.route == "responses":
                opening = call.connection.response_stream(form.arguments, max_retries=self._guard.max_retries)
            else:
                options: dict[str, Any] = form.arguments.get("stream_options") or {}
                asked = {**form.arguments, "stream_options": {**options, "include_usage": True}}
                opening = call.connection.chat_stream(asked, max_retries=self._guard.max_retries)
            return await call.held.enter_async_context(opening)

        call, stream = await self._guard.answer(CHAT, request, send, adapt=forms.adapt)
        async with call.held:
            call.note(stream.headers, stream.num_retries)
            try:
                async with aclosing(_read(stream, call, forms.current)) as parts:
                    async for part in parts:
                        if isinstance(part, Piece):
                            yield part
                        else:
                            record = call.finish(facts_of(part.completion))
                            if not call.failed_over:
                                self.store(request, part.completion)
                            yield CompletedCall(part.completion, record, part.response)
            finally:
                if not call.is_finished:
                    call.finish(None)

    def _key(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return ``request`` without what the model is known to refuse: without a temperature, no call is deterministic."""
        refused = FORMS.refused(request, self.connection.endpoint)
        return {key: value for key, value in request.items() if key not in refused} if refused else request


class _CallForms:
    """The forms of one call, which change when the endpoint refuses one."""

    def __init__(self, api: Api, optional: frozenset[str]) -> None:
        self._api: Api = api
        self._optional = optional
        self.current = Form("chat", {}, ())

    def next_of(self, call: ModelCall) -> Form:
        endpoint = call.connection.endpoint
        self.current = FORMS.form(call.request, endpoint, api=self._api, optional=self._optional)
        call.left_out = self.current.left_out
        call.sending(_PATHS[self.current.route], self.current.arguments)
        return self.current

    def adapt(self, call: ModelCall, error: APIStatusError) -> bool:
        return FORMS.learn(error, self.current, call.model, call.connection.endpoint, api=self._api)


def _read(stream: EventStream[Any], call: ModelCall, form: Form) -> Read:
    if form.route == "responses":
        return read_response_events(stream, call, sealer(call.model, call.connection.endpoint))
    return read_chunks(stream, call)
