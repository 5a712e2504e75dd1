"""Reading one streamed answer."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator

import httpx2
from openai import APIError
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from antiphon.toolkit.calls.accumulate import ChunkAccumulator
from antiphon.toolkit.calls.caller import ModelCall
from antiphon.toolkit.clients import ChunkStream
from antiphon.toolkit.errors import StreamError

_HINT = "send it again; chat.send() and retries cover a call that fails before its first chunk"


async def read_stream(stream: ChunkStream, call: ModelCall) -> AsyncGenerator[str | ChatCompletion]:
    """Yield pieces of text as they arrive, then the whole completion.

    Raises StreamError, with the text so far, if the stream breaks off, ends without a finish reason, or ends with a
    reason that says that it failed.
    """
    whole = ChunkAccumulator()
    text = ""
    try:
        async for chunk in stream.chunks:
            if not isinstance(chunk, ChatCompletionChunk):  # pyright: ignore[reportUnnecessaryIsInstance]
                # The client passes on whatever JSON an event holds, such as null.
                continue
            piece, has_token = whole.add(chunk.to_dict(warnings=False))
            if has_token and call.first_token_at is None:
                call.first_token_at = time.perf_counter()
            if piece:
                text += piece
                yield piece
    except (APIError, httpx2.HTTPError, ValueError) as error:
        reason = error.message if isinstance(error, APIError) else str(error) or type(error).__name__
        raise StreamError(f"The answer broke off: {reason}", hint=_HINT, text=text) from error
    if whole.failure is not None:
        raise StreamError(f"The server ended the answer with an error: {whole.failure}", hint=_HINT, text=text)
    if not whole.has_choice or not whole.finish_reason:
        raise StreamError("The stream ended before the answer did", hint=_HINT, text=text)
    yield whole.completion()
