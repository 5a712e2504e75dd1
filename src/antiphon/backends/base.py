"""The contract of a backend: a validated request in, one stream of typed events out.

A backend for another OpenAI-compatible API can also relay a request and its answer as bytes (``RelayingBackend``): then no field
is lost that this version does not know, and nothing is rendered twice.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import Literal, Protocol, runtime_checkable

import msgspec

from antiphon.protocol.chat import ChatRequest
from antiphon.protocol.completions import CompletionRequest
from antiphon.protocol.embeddings import EmbeddingRequest, EmbeddingResult
from antiphon.protocol.errors import ApiError
from antiphon.protocol.events import CacheStatus, Event, Usage
from antiphon.protocol.forward import ForwardOutcome, ForwardRequest, SocketMessage, SocketRequest
from antiphon.protocol.relay import RelayRequest
from antiphon.protocol.rerank import RerankRequest, RerankResult


class BackendModel(msgspec.Struct, frozen=True):
    """A model as ``GET /v1/models`` shows it. ``created`` is in Unix seconds, ``context_length`` in tokens."""

    id: str
    created: int
    owned_by: str
    kind: Literal["chat", "embedding", "reranker"]
    context_length: int | None = None


def wrong_kind(model: BackendModel) -> ApiError:
    """400: the endpoint is for models of the other kind."""
    uses = {
        "chat": "chat and completions; it makes no embeddings and ranks no documents",
        "embedding": "embeddings; it does not chat and ranks no documents",
        "reranker": "ranking documents; it does not chat and makes no embeddings",
    }
    return ApiError(
        400, f"The model `{model.id}` is for {uses[model.kind]}.", param="model", code="model_not_supported"
    )


CALLED: Mapping[str, str] = {"chat": "a chat model", "embedding": "an embedding model", "reranker": "a reranker"}
"""What messages call a model of each kind."""


def no_reranker(model: str, kind: str) -> ApiError:
    """400: a request to rank documents names a model of another kind."""
    return ApiError(
        400,
        f"The model `{model}` is {CALLED[kind]}; ranking documents needs a reranker. The operator of this server can serve one "
        "with the setting `reranker` in [models], for example bge-reranker-v2-m3.",
        param="model",
        code="model_not_supported",
    )


class Health(msgspec.Struct, frozen=True):
    """``loading`` and ``down`` answer 503 on ``/health``; ``detail`` is for people."""

    state: Literal["ready", "loading", "down"]
    detail: str = ""


class PartStatistics(msgspec.Struct, frozen=True):
    """The immutable statistics of one part, for ``/metrics`` and people.

    ``part`` becomes the metrics' prefix (``engine``: ``antiphon_engine_running``); ``labels`` distinguish parts of one kind.
    Of ``values``, fields ending in ``_total`` are counters, other numbers gauges; nested structs with ``bounds``, ``counts``
    and ``sum`` are histograms (``counts`` has one more than ``bounds``); values of other types are left out.
    """

    part: str
    labels: dict[str, str]
    values: msgspec.Struct


Countable = ChatRequest | CompletionRequest | EmbeddingRequest
"""A request whose prompt has a length in tokens."""


class Backend(Protocol):
    """Answers requests for the models it lists.

    Every generator stops its work at once when it is closed (``aclose``), which is what happens when the client leaves. Errors are ``ApiError``; anything else is a fault of ours and becomes a 500. A method
    for which a model is of the wrong kind raises an ``ApiError`` below 500.
    """

    @property
    def models(self) -> Sequence[BackendModel]:
        """What this backend serves; may grow once it is ready."""
        ...

    def serves(self, model: str) -> bool:
        """Whether a request for this name would be answered here; aliases and patterns included, without I/O."""
        ...

    def chat(self, request: ChatRequest) -> AsyncGenerator[Event]:
        """Answer a chat request; see ``protocol.events`` for the order of events."""
        ...

    def complete(self, request: CompletionRequest) -> AsyncGenerator[Event]:
        """Continue prompts; choice indices as ``CompletionRequest`` says."""
        ...

    async def embed(self, request: EmbeddingRequest) -> EmbeddingResult:
        """Return one vector per input."""
        ...

    async def rerank(self, request: RerankRequest) -> RerankResult:
        """Return the relevance of each document."""
        ...

    async def count_tokens(self, request: Countable) -> int:
        """Return the exact number of prompt tokens the request would have, template and tools included.

        ``ApiError`` 501 from a backend that cannot count.
        """
        ...

    def health(self) -> Health:
        """Return at once, without I/O."""
        ...

    def statistics(self) -> Sequence[PartStatistics]:
        """Return the current numbers of every part, without I/O."""
        ...

    async def aclose(self) -> None:
        """Release everything; running requests fail with a 503. Idempotent."""
        ...


@runtime_checkable
class AliasingBackend(Backend, Protocol):
    """A backend that may serve one model under any number of names."""

    def counted_as(self, model: str) -> str:
        """Return the name under which limits count a request for ``model``: its own name unless several names lead to the same model; without I/O."""
        ...

    def describe(self, model: str) -> BackendModel | None:
        """Return the model that answers for any name that is served, under that name; None for others, without I/O."""
        ...


class BackendError(ApiError):
    """A failure of a backend itself. ``repeats_here``: the same request would fail the same way there again."""

    repeats_here: bool = False


class StreamCut(ApiError):  # noqa: N818 - what happened to the connection
    """Cut the connection here without another byte: a script asks for this to show clients a broken stream."""

    def __init__(self) -> None:
        super().__init__(502, "The connection to the model was cut by the script.", type="server_error")


class RelayOutcome(msgspec.Struct, frozen=True):
    """What the relay read of an answer; complete once its bytes are exhausted.

    ``usage`` is None where the answer did not report it (a stream that was cut, or that the client left early), which is not zero.
    ``num_chunks`` counts the chunks of a stream that carried choices: about one per token, an estimate.
    ``num_bytes`` is the size of an answer in one piece. Of a response, ``object_id`` is its id, ``next_sequence_number`` that of
    the event which would come next, and ``upstream`` the name of the upstream that has it.
    """

    model: str | None = None
    usage: Usage | None = None
    finish_reason: str | None = None
    num_chunks: int = 0
    num_bytes: int = 0
    cache: CacheStatus | None = None
    object_id: str | None = None
    next_sequence_number: int = 0
    upstream: str | None = None


class RelayedAnswer(Protocol):
    """A successful answer (status 200) that is relayed. Iterate it once; close it in every case.

    An answer that is not streamed comes as one piece. Each piece of a stream is one or more whole SSE events. The first
    piece was received before ``relay`` returned. A failure after it is an ``ApiError`` out of the iterator, to be sent
    as an error chunk.
    """

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers to send on, in lower case; ``content-type`` always, never a length or encoding of the transfer."""
        ...

    @property
    def outcome(self) -> RelayOutcome:
        """What is known so far."""
        ...

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def aclose(self) -> None:
        """Stop the upstream's work if it is not finished. Idempotent."""
        ...


@runtime_checkable
class SteerableAnswer(RelayedAnswer, Protocol):
    """A relayed response that takes input while it runs, as the WebSocket events ``response.steer`` have it."""

    async def steer(self, message: str) -> bool:
        """Send a ``response.steer`` on as it is written; False if the response is over.

        What becomes of the input is among the answer's events, which go on after the response's last event until it is known.
        """
        ...

    def successor(self) -> "SteerableAnswer | None":
        """Return the response that the upstream began by itself after this one, once; None if it began none.

        It is known after the last event, and closing this answer does not end it: ``end_session`` does, if nobody asks for it.
        """
        ...


@runtime_checkable
class RelayingBackend(Backend, Protocol):
    """A backend that can relay requests without validating them; the upstream validates them."""

    def relays(self, model: str) -> bool:
        """Whether requests for this name are relayed; the others are validated here."""
        ...

    async def relay(self, request: RelayRequest) -> RelayedAnswer:
        """Send the request on; returns with the first piece of a successful answer, else raises ``ApiError``."""
        ...


@runtime_checkable
class ResponseRelayingBackend(RelayingBackend, Protocol):
    """A relaying backend in front of upstreams, of which some have ``/v1/responses``."""

    async def relays_responses(self, model: str) -> bool:
        """Whether this holds for ``/v1/responses`` too: every upstream that may answer has the endpoint.

        An upstream is asked once. One that cannot be reached does not have it for now.
        """
        ...

    async def end_session(self, session: str) -> None:
        """Close what upstreams hold open for a client's WebSocket (``SessionTurn.session``). Idempotent."""
        ...


class ForwardedAnswer(Protocol):
    """The answer of an upstream to a request for any path, an error of the request included.

    Iterate it once; close it in every case. A failure within it is an ``ApiError`` out of the iterator.
    """

    @property
    def status(self) -> int:
        """The HTTP status, from 200 to 299, 304, or from 400 to 599."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers to send on, in lower case."""
        ...

    @property
    def outcome(self) -> ForwardOutcome:
        """What is known so far."""
        ...

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def aclose(self) -> None:
        """Stop the upstream's work if it is not finished. Idempotent."""
        ...


class SocketClosed(Exception):  # noqa: N818 - an event of the connection
    """The other side closed its WebSocket: its code (1000 where it gave none) and its reason.

    ``error`` is set where it did not close in order: the connection was lost, or what came was not the protocol.
    """

    def __init__(self, code: int, reason: str = "", error: ApiError | None = None) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason
        self.error = error


class ForwardedSocket(Protocol):
    """An open WebSocket of an upstream. Pings of either side are answered below this."""

    @property
    def subprotocol(self) -> str | None:
        """What the upstream chose of those that were offered."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers of the handshake to send on, in lower case."""
        ...

    async def receive(self) -> SocketMessage:
        """Return the next message. Reading stops while nobody asks. Raises ``SocketClosed``."""
        ...

    async def send(self, message: str | bytes) -> None:
        """Send a message; waits while the upstream reads more slowly. Raises ``SocketClosed``."""
        ...

    async def close(self, code: int, reason: str = "") -> None:
        """Close in order, at once if the upstream does not answer within seconds. Idempotent."""
        ...


class Destination(msgspec.Struct, frozen=True):
    """Where a request for any path goes: the upstream's name in the settings, and the model's name there, if it names one."""

    upstream: str
    model: str | None = None


@runtime_checkable
class ForwardingBackend(Protocol):
    """A backend that can send a request for any path to one of its upstreams."""

    @property
    def upstreams(self) -> Sequence[str]:
        """The names of the upstreams."""
        ...

    def destination(self, model: str) -> Destination | None:
        """Return the upstream that serves a model; None for a model of this machine, or one that nobody serves."""
        ...

    async def forward(self, upstream: str, request: ForwardRequest) -> ForwardedAnswer:
        """Send the request to the upstream of that name; returns with the head of the answer, else raises ``ApiError``."""
        ...

    async def connect(self, upstream: str, request: SocketRequest) -> ForwardedSocket:
        """Open a WebSocket at the upstream of that name; ``ApiError`` with the upstream's own status if it refuses."""
        ...
