"""What happened inside one request: times, attempts at upstreams and, where capture is on, what the model saw and said.

The server makes a trace for each request and puts it into ``TRACE``; backends find it there, because a request that passes
through caches and routes has no other value that every one of them sees. A backend works the same without one.
"""

import time
from collections.abc import Mapping
from contextvars import ContextVar

import msgspec

from antiphon.backends.key_redaction import text_without_keys, without_keys
from antiphon.protocol.events import TokenLogprob

TOP_LOGPROBS = 5
"""Alternatives of each token that a captured request asks the engine for."""
_MAX_ATTEMPTS = 20
_TOKEN_BYTES = 60
"""What a token takes in memory, apart from its text and alternatives; an estimate."""


class RouteAttempt(msgspec.Struct, frozen=True):
    """One try at one backend. ``start_s`` counts from the request's arrival, ``duration_s`` until its first token or its error.

    ``status`` is 200 for the try that answered, and 499 for one that was given up.
    """

    backend: str
    model: str
    start_s: float
    duration_s: float
    status: int
    error: str | None = None


class CapturedToken(msgspec.Struct, frozen=True):
    """A generated token of choice ``index`` with its alternatives."""

    index: int
    logprob: TokenLogprob


class CapturedBytes:
    """About how much memory all captured contents take together."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class RequestContents:
    """The contents of one captured request; each part holds at most ``max_bytes``, ``is_cut`` says that one had more.

    ``total`` counts what all requests hold; one that was dropped takes no more.
    """

    __slots__ = (
        "_is_dropped", "_max_bytes", "_num_answer_bytes", "_num_token_bytes", "_total", "answer", "grammar", "is_cut",
        "num_bytes", "prompt", "request", "tokens",
    )  # fmt: skip

    def __init__(self, max_bytes: int, total: CapturedBytes) -> None:
        self._max_bytes = max_bytes
        self._total = total
        self._is_dropped = False
        self._num_answer_bytes = 0
        self._num_token_bytes = 0
        self.request = b""
        self.answer: list[bytes] = []
        self.prompt: tuple[tuple[str, bool], ...] = ()
        self.grammar: str | None = None
        self.tokens: list[CapturedToken] = []
        self.is_cut = False
        self.num_bytes = 0

    def drop(self) -> None:
        """Give the memory back, and take nothing more."""
        self._is_dropped = True
        self._total.count -= self.num_bytes

    def set_request(self, body: bytes) -> None:
        """Keep the request's body, without keys."""
        self.is_cut |= len(body) > self._max_bytes
        self.request = without_keys(body[: self._max_bytes])
        self._grow(len(self.request))

    def set_prompt(self, pieces: tuple[tuple[str, bool], ...], grammar: str | None) -> None:
        """Keep the prompt as rendered: pieces of text, and whether special tokens are recognised in each."""
        room = self._max_bytes
        kept: list[tuple[str, bool]] = []
        for text, is_special in pieces:
            part = text[: max(0, room)]
            self.is_cut |= len(part) < len(text)
            room -= len(part)
            if part:
                kept.append((text_without_keys(part), is_special))
        self.prompt = tuple(kept)
        if grammar is not None:
            self.is_cut |= len(grammar) > self._max_bytes
            self.grammar = grammar[: self._max_bytes]
        self._grow(self._max_bytes - room + len(self.grammar or ""))

    def add_tokens(self, index: int, tokens: tuple[TokenLogprob, ...]) -> None:
        """Keep generated tokens of choice ``index``."""
        for token in tokens:
            size = _TOKEN_BYTES * (1 + len(token.top_logprobs)) + len(token.token)
            if self._is_dropped or self._num_token_bytes + size > self._max_bytes:
                self.is_cut = True
                return
            self._num_token_bytes += size
            self._grow(size)
            self.tokens.append(CapturedToken(index, token))

    def add_answer(self, piece: bytes) -> None:
        """Keep a piece of the answer as sent."""
        room = 0 if self._is_dropped else self._max_bytes - self._num_answer_bytes
        self.is_cut |= len(piece) > room
        kept = piece[: max(0, room)]
        if kept:
            self.answer.append(kept)
            self._num_answer_bytes += len(kept)
            self._grow(len(kept))

    def _grow(self, num_bytes: int) -> None:
        if not self._is_dropped:
            self.num_bytes += num_bytes
            self._total.count += num_bytes


class RequestTrace:
    """The trace of one request. ``queue_s`` and ``prefill_s`` are of the engine here, None for any other backend.

    ``arrived`` is on the monotonic clock. ``first_token_s`` counts from the arrival. ``contents`` is None unless capture is on.
    """

    __slots__ = ("arrived", "attempts", "contents", "first_token_s", "message", "prefill_s", "propagated", "queue_s")

    def __init__(self) -> None:
        self.arrived = time.monotonic()
        self.queue_s: float | None = None
        self.prefill_s: float | None = None
        self.attempts: list[RouteAttempt] = []
        self.contents: RequestContents | None = None
        self.first_token_s: float | None = None
        self.propagated: Mapping[str, str] = {}
        """Headers that carry the trace context to an upstream; empty unless tracing is on."""
        self.message: str | None = None
        """The message of the error that ended the request."""

    def prefilled(self, queue_s: float, prefill_s: float) -> None:
        """Note how long a prompt waited for the engine and how long it was computed; of several prompts the longest."""
        self.queue_s = max(self.queue_s or 0.0, queue_s)
        self.prefill_s = max(self.prefill_s or 0.0, prefill_s)

    def attempted(self, attempt: RouteAttempt) -> None:
        """Note a try at a backend; a request has few, and further ones are left out."""
        if len(self.attempts) < _MAX_ATTEMPTS:
            self.attempts.append(attempt)


TRACE: ContextVar[RequestTrace | None] = ContextVar("antiphon_trace", default=None)


def contents() -> RequestContents | None:
    """Return where the contents of the current request are kept; None unless capture is on."""
    trace = TRACE.get()
    return None if trace is None else trace.contents


def propagated_headers() -> Mapping[str, str]:
    """Return the headers that carry the trace context of the current request to an upstream; empty without tracing."""
    trace = TRACE.get()
    return {} if trace is None else trace.propagated
