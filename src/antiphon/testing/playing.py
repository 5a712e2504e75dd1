"""A request and the reply to it, as an HTTP response: read, checked and rendered by the code of the server."""

import base64
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, Protocol

import anyio
import httpx2

from antiphon.backends.scripted.performance import (
    Failure,
    Pause,
    Step,
    as_text,
    chat_steps,
    completion_steps,
    embedding_result,
    last_message,
    waiting_steps,
)
from antiphon.backends.scripted.script import Reply
from antiphon.protocol import parse_chat, parse_completion, parse_embedding, problems
from antiphon.protocol.chat import ChatRequest
from antiphon.protocol.completions import CompletionRequest
from antiphon.protocol.embeddings import EmbeddingRequest
from antiphon.protocol.errors import ApiError
from antiphon.protocol.events import Event
from antiphon.protocol.rendering import (
    ChatBody,
    ChatStream,
    CompletionBody,
    CompletionStream,
    ResponseBody,
    ResponseState,
    ResponseStream,
    error_frame,
    new_id,
    render_embeddings,
)
from antiphon.protocol.responses import messages_of, parse_response, with_ids
from antiphon.protocol.responses.errors import own_words

Json = dict[str, Any]
Operation = Literal["chat/completions", "responses", "completions", "embeddings"]
OPERATIONS: tuple[Operation, ...] = ("chat/completions", "responses", "completions", "embeddings")
_SEAL = "scripted-seal:"


class _Body(Protocol):
    def feed(self, event: Event) -> None: ...
    def encoded(self) -> bytes: ...


class _Stream(Protocol):
    def feed(self, event: Event) -> list[bytes]: ...
    def done(self) -> bytes: ...


class PlayedStream(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    """The bytes of a response, with the reply's pauses between them and its fault at the end."""

    def __init__(self, parts: Iterable[bytes | Pause | httpx2.TransportError]) -> None:
        self._parts = parts

    def __iter__(self) -> Iterator[bytes]:
        for part in self._parts:
            match part:
                case Pause(seconds):
                    time.sleep(seconds)
                case bytes():
                    yield part
                case _:
                    raise part

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self._parts:
            match part:
                case Pause(seconds):
                    await anyio.sleep(seconds)
                case bytes():
                    yield part
                case _:
                    raise part


class Performance:
    """A request that was read: the text that chooses its reply, and the reply as a response.

    Raises ApiError for a request that the API refuses. ``responses`` holds the items of earlier responses by id, and gets
    those of this one.
    """

    def __init__(self, operation: Operation, value: Any, responses: dict[str, tuple[Json, ...]]) -> None:
        self._responses = responses
        self._play: Callable[[Reply, int], httpx2.Response]
        match operation:
            case "chat/completions":
                chat = parse_chat(value, can_store=True)
                self.model, self.last_message = chat.model, last_message(chat)
                self._play = lambda reply, _: self._chat(chat, reply)
            case "completions":
                completion = parse_completion(value)
                self.model, self.last_message = completion.model, as_text(completion.prompts[-1])
                self._play = lambda reply, _: self._completion(completion, reply)
            case "embeddings":
                embedding = parse_embedding(value)
                self.model, self.last_message = embedding.model, as_text(embedding.inputs[0])
                self._play = lambda reply, size: self._embedding(embedding, reply, size)
            case "responses":
                self._read_response(value)

    def play(self, reply: Reply, embedding_size: int) -> httpx2.Response:
        """Return the response. Raises ApiError, or the transport's error for a fault before the first token."""
        return self._play(reply, embedding_size)

    def _chat(self, request: ChatRequest, reply: Reply) -> httpx2.Response:
        id_, created, steps = new_id("chatcmpl"), int(time.time()), chat_steps(request, reply)
        if request.stream:
            return _streamed(steps, ChatStream(id_, created, request), error_frame)
        return _whole(steps, ChatBody(id_, created, request))

    def _completion(self, request: CompletionRequest, reply: Reply) -> httpx2.Response:
        id_, created, steps = new_id("cmpl"), int(time.time()), completion_steps(request, reply)
        if request.stream:
            return _streamed(steps, CompletionStream(id_, created, request), error_frame)
        return _whole(steps, CompletionBody(id_, created, request))

    def _embedding(self, request: EmbeddingRequest, reply: Reply, size: int) -> httpx2.Response:
        pauses = [step for step in _until_failure(waiting_steps(reply)) if isinstance(step, Pause)]
        return _response(PlayedStream([*pauses, render_embeddings(request, embedding_result(request, reply, size))]))

    def _read_response(self, value: Any) -> None:
        request = parse_response(value)
        previous = request.previous_response_id
        if previous is not None and previous not in self._responses:
            raise problems.bad_request(
                f"Previous response with id '{previous}' not found.",
                "previous_response_id",
                "previous_response_not_found",
            )
        items = (*self._responses.get(previous or "", ()), *with_ids(request.input))
        try:
            chat = request.with_messages(messages_of(items, _unsealed, {item["id"]: item for item in items}))
        except ApiError as error:
            raise own_words(error) from error
        self.model, self.last_message = chat.model, last_message(chat)

        def play(reply: Reply, _: int) -> httpx2.Response:
            state = ResponseState(new_id("resp", "_"), time.time(), request, _sealed)
            steps = self._remembered(chat_steps(chat, reply), state, items)
            if chat.stream:
                stream = ResponseStream(state, obfuscates=chat.include_obfuscation, is_plain=not request.shows_logprobs)
                return _streamed(steps, stream, stream.error)
            return _whole(steps, ResponseBody(state))

        self._play = play

    def _remembered(self, steps: Iterator[Step], state: ResponseState, items: tuple[Json, ...]) -> Iterator[Step]:
        yield from steps
        self._responses[state.id] = (*items, *with_ids(state.value()["output"]))


def failed(problem: ApiError) -> httpx2.Response:
    """Return an error of the API as it goes over the wire."""
    return httpx2.Response(problem.status, json=problem.body(), headers={**_headers(), **problem.headers})


def _whole(steps: Iterator[Step], body: _Body) -> httpx2.Response:
    pauses: list[bytes | Pause | httpx2.TransportError] = []
    for step in _until_failure(steps):
        if isinstance(step, Pause):
            pauses.append(step)
        else:
            body.feed(step)
    return _response(PlayedStream([*pauses, body.encoded()]))


def _until_failure(steps: Iterator[Step]) -> Iterator[Event | Pause]:
    """Yield the steps of an answer in one piece: whenever it fails, all of it does."""
    for step in steps:
        if isinstance(step, Failure):
            raise step.error or _transport_error(step)
        yield step


def _streamed(steps: Iterator[Step], stream: _Stream, last: Callable[[ApiError], bytes]) -> httpx2.Response:
    waits: list[Pause] = []
    for first in steps:
        if isinstance(first, Failure):
            raise first.error or _transport_error(first)
        if not isinstance(first, Pause):
            parts = _frames(first, steps, stream, last)
            return _response(PlayedStream(_chained(waits, parts)), {"content-type": "text/event-stream"})
        waits.append(first)
    raise AssertionError("a reply has at least one event")


def _chained(
    waits: Iterable[Pause], parts: Iterator[bytes | Pause | httpx2.TransportError]
) -> Iterator[bytes | Pause | httpx2.TransportError]:
    yield from waits
    yield from parts


def _frames(
    first: Event, rest: Iterator[Step], stream: _Stream, last: Callable[[ApiError], bytes]
) -> Iterator[bytes | Pause | httpx2.TransportError]:
    yield from stream.feed(first)
    for step in rest:
        match step:
            case Pause():
                yield step
            case Failure():
                yield last(step.error) if step.error is not None else _transport_error(step)
                return
            case _:
                yield from stream.feed(step)
    yield stream.done()


def _transport_error(failure: Failure) -> httpx2.TransportError:
    if failure.fault == "hang":
        return httpx2.ReadTimeout("the script hangs: nothing more is sent")
    return httpx2.RemoteProtocolError("the script closed the connection before the end of the answer")


def _response(stream: PlayedStream, headers: Mapping[str, str] | None = None) -> httpx2.Response:
    return httpx2.Response(
        200, stream=stream, headers={"content-type": "application/json", **_headers(), **(headers or {})}
    )


def _headers() -> dict[str, str]:
    return {"x-request-id": new_id("req", "_")}


def _sealed(text: str) -> str:
    return _SEAL + base64.b64encode(text.encode()).decode()


def _unsealed(token: str) -> str:
    if not token.startswith(_SEAL):
        raise problems.bad_request("The encrypted content could not be verified.", "input", "invalid_encrypted_content")
    return base64.b64decode(token.removeprefix(_SEAL)).decode()
