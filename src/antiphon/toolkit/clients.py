"""Which client a call goes through, and what the toolkit asks of it.

``client=None`` means one made from the environment (``OPENAI_API_KEY``, ``OPENAI_BASE_URL``). A client that the user
passes is used as it is, with its own transport, proxy, headers and retries: an ``OpenAI`` is called in worker
threads, an ``AsyncOpenAI`` in the running loop. Nothing here is particular to one server.
"""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar, cast
from urllib.parse import urlsplit

import anyio.to_thread
from openai import APIError, AsyncOpenAI, OpenAI, OpenAIError
from openai.types import CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from antiphon.toolkit._sync import portal
from antiphon.toolkit.errors import ClientError

T = TypeVar("T")
Client = OpenAI | AsyncOpenAI

# A name that OpenAI serves and that local servers commonly alias.
DEFAULT_MODEL = "gpt-4o-mini"

_NO_CLIENT_HINT = (
    "export OPENAI_API_KEY=... (a local server accepts any value; name it with OPENAI_BASE_URL=http://127.0.0.1:8787/v1), "
    "or pass client=OpenAI(...)"
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a client points: scheme, host, port and path, without credentials, query or closing slash.

    Equal endpoints may share cached answers and embeddings.
    """

    base_url: str

    @property
    def is_openai(self) -> bool:
        host = urlsplit(self.base_url).hostname or ""
        return host == "api.openai.com" or host.endswith(".api.openai.com")

    @property
    def is_azure(self) -> bool:
        """Whether it is OpenAI's models in Microsoft's cloud; a model is then called by the name of its deployment."""
        host = urlsplit(self.base_url).hostname or ""
        return host.endswith((".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com"))

    @property
    def root(self) -> str:
        """The address without ``/v1``, for a server's own routes."""
        return self.base_url.removesuffix("/v1")

    @classmethod
    def of(cls, client: Client) -> Endpoint:
        url = urlsplit(str(client.base_url))
        host = (url.hostname or "").lower()
        host = f"[{host}]" if ":" in host else host
        port = f":{url.port}" if url.port and url.port != {"http": 80, "https": 443}.get(url.scheme) else ""
        return cls(f"{url.scheme}://{host}{port}{url.path.rstrip('/')}")


@dataclass(frozen=True, slots=True)
class ApiResponse(Generic[T]):
    """One response: the client's value, the headers as received (lower-case keys) and the wait in seconds."""

    value: T
    headers: Mapping[str, str]
    num_retries: int
    seconds: float

    @property
    def request_id(self) -> str | None:
        return self.headers.get("x-request-id")


@dataclass(frozen=True, slots=True)
class EventStream(Generic[T]):
    """A stream under way: its events (chunks, of chat completions), and the headers that came before them."""

    events: AsyncIterator[T]
    headers: Mapping[str, str]
    num_retries: int


ChunkStream = EventStream[ChatCompletionChunk]


def is_about_model(error: APIError) -> bool:
    """Tell whether the server refuses the model that was named: one that it does not serve, or not for this call."""
    return error.code == "model_not_found" or error.param == "model"


class Connection:
    """A client, of either kind, called asynchronously.

    ``max_retries`` of a call replaces the client's own number; None leaves the client to it. Errors are the
    client's own (``openai.APIError`` and below). Cancelling closes the connection of an ``AsyncOpenAI``; a thread
    that waits for an ``OpenAI`` is left to finish alone.
    """

    def __init__(self, client: Client, *, is_owned: bool = False) -> None:
        self.client = client
        self.endpoint = Endpoint.of(client)
        self._is_owned = is_owned

    def __repr__(self) -> str:
        return f"Connection({type(self.client).__name__}, {self.endpoint.base_url!r})"

    async def chat(self, request: Mapping[str, Any], *, max_retries: int | None = None) -> ApiResponse[ChatCompletion]:
        """POST /chat/completions; ``request`` holds the client's own keyword arguments, without ``stream``."""
        return await self._call(lambda client: client.chat.completions.with_raw_response.create, request, max_retries)

    async def embeddings(
        self, request: Mapping[str, Any], *, max_retries: int | None = None
    ) -> ApiResponse[CreateEmbeddingResponse]:
        """POST /embeddings."""
        return await self._call(lambda client: client.embeddings.with_raw_response.create, request, max_retries)

    async def respond(self, request: Mapping[str, Any], *, max_retries: int | None = None) -> ApiResponse[Any]:
        """POST /responses; ``request`` holds the client's own keyword arguments, without ``stream``."""
        return await self._call(lambda client: client.responses.with_raw_response.create, request, max_retries)

    def chat_stream(
        self, request: Mapping[str, Any], *, max_retries: int | None = None
    ) -> AbstractAsyncContextManager[ChunkStream]:
        """POST /chat/completions with ``stream``; leaving the context closes the connection."""
        return self._stream(lambda client: client.chat.completions.with_raw_response.create, request, max_retries)

    def response_stream(
        self, request: Mapping[str, Any], *, max_retries: int | None = None
    ) -> AbstractAsyncContextManager[EventStream[Any]]:
        """POST /responses with ``stream``; leaving the context closes the connection."""
        return self._stream(lambda client: client.responses.with_raw_response.create, request, max_retries)

    @asynccontextmanager
    async def _stream(
        self, method: Callable[[Any], Callable[..., Any]], request: Mapping[str, Any], max_retries: int | None
    ) -> AsyncGenerator[EventStream[Any]]:
        started: ApiResponse[Any] = await self._call(method, {**request, "stream": True}, max_retries)
        stream = started.value
        events = aiter(stream) if isinstance(self.client, AsyncOpenAI) else _iterate_in_thread(iter(stream))
        try:
            yield EventStream(events, started.headers, started.num_retries)
        finally:
            if isinstance(self.client, AsyncOpenAI):
                await stream.close()
            else:
                stream.close()

    async def call(self, method: Callable[[Any], Callable[..., Any]], arguments: Mapping[str, Any]) -> Any:
        """Call a method of the client that has no call here, such as those of files; never retried."""
        call = method(self.client.with_options(max_retries=0))
        if isinstance(self.client, AsyncOpenAI):
            return await call(**arguments)
        return await anyio.to_thread.run_sync(lambda: call(**arguments), abandon_on_cancel=True)

    async def get_json(self, path: str) -> Any:
        """GET ``path``, below the base URL or absolute, and return its JSON value (None for no JSON); never retried."""
        return await self._ask(lambda client: client.get, path, {})

    async def post_json(self, path: str, body: Mapping[str, Any]) -> Any:
        """POST ``body`` as JSON to ``path``, below the base URL or absolute; never retried."""
        return await self._ask(lambda client: client.post, path, {"body": dict(body)})

    async def aclose(self) -> None:
        """Close the client if it was made here; a client that was passed in stays open."""
        if self._is_owned and isinstance(self.client, AsyncOpenAI):
            await self.client.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _ask(self, method: Callable[[Any], Callable[..., Any]], path: str, arguments: Mapping[str, Any]) -> Any:
        call = method(self.client.with_options(max_retries=0))
        try:
            if isinstance(self.client, AsyncOpenAI):
                return await call(path, cast_to=object, **arguments)
            return await anyio.to_thread.run_sync(
                lambda: call(path, cast_to=object, **arguments), abandon_on_cancel=True
            )
        except ValueError:
            # The body is not the JSON that its content type promises.
            return None

    async def _call(
        self, method: Callable[[Any], Callable[..., Any]], request: Mapping[str, Any], max_retries: int | None
    ) -> ApiResponse[Any]:
        client = self.client if max_retries is None else self.client.with_options(max_retries=max_retries)
        call = method(client)
        begun = time.perf_counter()
        if isinstance(self.client, AsyncOpenAI):
            raw = await call(**request)
        else:
            raw = await anyio.to_thread.run_sync(lambda: call(**request), abandon_on_cancel=True)
        seconds = time.perf_counter() - begun
        headers = {key.lower(): value for key, value in raw.headers.items()}
        try:
            value = raw.parse()
        except (ValueError, AttributeError, TypeError):
            # The client cannot read the body; the caller shows its beginning in an error.
            value = raw.text
        return ApiResponse(value, headers, raw.retries_taken, seconds)


def connect(client: Client | None = None) -> Connection:
    """Return a connection through ``client``, or through a new ``AsyncOpenAI()`` from the environment.

    The new one belongs to the connection, which should be closed (``async with``). Raises ClientError if the
    environment does not hold what a client needs.
    """
    if client is not None:
        return Connection(client)
    try:
        return Connection(AsyncOpenAI(), is_owned=True)
    except OpenAIError as error:
        raise ClientError(f"No OpenAI client can be made: {error}", hint=_NO_CLIENT_HINT) from error


def portal_client(client: object) -> Client:
    """Return the client for a synchronous face, which runs on a loop of its own and cannot share another's.

    None is one ``AsyncOpenAI()`` per process and environment, kept open so that calls share its connections.
    """
    if isinstance(client, OpenAI):
        return client
    if client is not None:
        raise ClientError(
            f"A synchronous call needs client=OpenAI(...), not {type(client).__name__}",
            hint="use the asynchronous twin (AsyncChat, aextract, ...) with AsyncOpenAI",
        )
    environment = tuple(sorted((key, value) for key, value in os.environ.items() if key.startswith("OPENAI_")))
    key = (os.getpid(), environment)
    if key not in _shared_clients:
        _shared_clients[key] = cast("AsyncOpenAI", connect().client)
    return _shared_clients[key]


_shared_clients: dict[tuple[int, tuple[tuple[str, str], ...]], AsyncOpenAI] = {}


@atexit.register
def _close_shared_clients() -> None:
    for (pid, _), client in _shared_clients.items():
        if pid == os.getpid():
            portal.call(client.close())


async def _iterate_in_thread(items: Any) -> AsyncIterator[Any]:
    end = object()
    while (item := await anyio.to_thread.run_sync(next, items, end, abandon_on_cancel=True)) is not end:
        yield item
