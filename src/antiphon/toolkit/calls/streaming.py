"""Reading one streamed answer, accumulated by the official client's own helper."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from typing import Any

from openai import APIError
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion

from antiphon.toolkit.calls.caller import ModelCall
from antiphon.toolkit.clients import ChunkStream
from antiphon.toolkit.errors import StreamError

_HINT = "send it again; chat.send() and retries cover a call that fails before its first chunk"


async def read_stream(stream: ChunkStream, call: ModelCall) -> AsyncGenerator[str | ChatCompletion]:
    """Yield pieces of text as they come, then the whole completion.

    Raises StreamError, with the text so far, if the stream breaks off or ends without a finish reason.
    """
    # The state is of no type: what it would parse is read elsewhere.
    state: ChatCompletionStreamState[Any] = ChatCompletionStreamState()
    text = ""
    completion: ChatCompletion | None = None
    try:
        async for chunk in stream.chunks:
            state.handle_chunk(chunk)
            completion = state.current_completion_snapshot
            delta = chunk.choices[0].delta if chunk.choices else None
            if delta is not None and call.first_token_at is None and (delta.content or delta.tool_calls):
                call.first_token_at = time.perf_counter()
            if delta is not None and delta.content:
                text += delta.content
                yield delta.content
    except APIError as error:
        raise StreamError(f"The answer broke off: {error.message}", hint=_HINT, text=text) from error
    if completion is None or not completion.choices or not _finish_reason(completion):
        raise StreamError("The stream ended before the answer did", hint=_HINT, text=text)
    fields: dict[str, Any] = completion.to_dict()
    yield ChatCompletion.construct(**fields)


def _finish_reason(completion: ChatCompletion) -> str | None:
    # Typed as always there, yet absent until the last chunk of an answer.
    return completion.choices[0].finish_reason
