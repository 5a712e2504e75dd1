"""Reading one streamed answer."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx2
from openai import APIError, BaseModel
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from antiphon.toolkit.calls.accumulate import ChunkAccumulator
from antiphon.toolkit.calls.responses_form import completion_of
from antiphon.toolkit.errors import StreamError

if TYPE_CHECKING:
    from antiphon.toolkit.calls.guard import ModelCall
    from antiphon.toolkit.clients import EventStream

_HINT = "send it again; chat.send() and retries cover a call that fails before its first chunk"
_THOUGHTS = {"response.reasoning_summary_text.delta", "response.reasoning_text.delta"}


@dataclass(frozen=True, slots=True)
class Piece:
    """What came at once: a piece of the answer's text, or of the reasoning before it."""

    text: str = ""
    reasoning: str = ""


@dataclass(frozen=True, slots=True)
class Whole:
    """The end of a stream; ``response`` is the client's ``Response`` where it is one."""

    completion: ChatCompletion
    response: Any = None


Read = AsyncGenerator[Piece | Whole]


async def read_chunks(stream: EventStream[ChatCompletionChunk], call: ModelCall) -> Read:
    """Yield pieces of a chat completion as they arrive, then the whole of it.

    Raises StreamError, with the text so far, if the stream breaks off, ends without a finish reason, or ends with a
    reason that says that it failed.
    """
    whole, text = ChunkAccumulator(), ""
    try:
        async for chunk in stream.events:
            if not isinstance(chunk, ChatCompletionChunk):  # pyright: ignore[reportUnnecessaryIsInstance]
                # The client passes on whatever JSON an event holds, such as null.
                continue
            added = whole.add(chunk.to_dict(warnings=False))
            if added.has_token:
                _note_first_token(call)
            if added.text or added.reasoning:
                text += added.text
                yield Piece(added.text, added.reasoning)
    except (APIError, httpx2.HTTPError, ValueError) as error:
        raise _broken(error, text) from error
    if whole.failure is not None:
        raise StreamError(f"The server ended the answer with an error: {whole.failure}", hint=_HINT, text=text)
    if not whole.has_choice or not whole.finish_reason:
        raise StreamError("The stream ended before the answer did", hint=_HINT, text=text)
    yield Whole(whole.completion())


async def read_response_events(stream: EventStream[Any], call: ModelCall, sealed_by: str) -> Read:
    """Yield pieces of a response as they arrive, then the whole as a chat completion; raises what ``read_chunks`` does."""
    text, items = "", list[dict[str, Any]]()
    try:
        async for event in stream.events:
            kind = getattr(event, "type", None)
            if kind == "response.output_text.delta":
                _note_first_token(call)
                text += event.delta
                yield Piece(text=event.delta)
            elif kind in _THOUGHTS:
                yield Piece(reasoning=event.delta)
            elif kind == "response.output_item.done" and isinstance(event.item, BaseModel):
                _note_first_token(call)
                items.append(event.item.to_dict(mode="json", warnings=False))
            elif kind in {"response.completed", "response.incomplete"}:
                if (completion := completion_of(event.response, sealed_by, items)) is not None:
                    yield Whole(completion, event.response)
                    return
            elif kind in {"response.failed", "error"}:
                told = getattr(getattr(event, "response", event), "error", None) or event
                why = getattr(told, "message", None) or "no reason was given"
                raise StreamError(f"The server ended the answer with an error: {why}", hint=_HINT, text=text)
    except (APIError, httpx2.HTTPError, ValueError) as error:
        raise _broken(error, text) from error
    raise StreamError("The stream ended before the answer did", hint=_HINT, text=text)


def _note_first_token(call: ModelCall) -> None:
    if call.first_token_at is None:
        call.first_token_at = time.perf_counter()


def _broken(error: Exception, text: str) -> StreamError:
    reason = error.message if isinstance(error, APIError) else str(error) or type(error).__name__
    return StreamError(f"The answer broke off: {reason}", hint=_HINT, text=text)
