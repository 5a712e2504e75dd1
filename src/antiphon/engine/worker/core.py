"""What the engine's process serves: one core per kind of model, behind one interface."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from antiphon.engine.ipc.messages import Answer, Failed, ModelInfo, Prompt, Request, Tokenize, Tokenized
from antiphon.engine.model.vocabulary import TokenIdError
from antiphon.engine.statistics import EngineStatistics
from antiphon.engine.steps.batch_loop import BatchLoop, CancelTask
from antiphon.engine.worker.loading import LoadedModel
from antiphon.engine.worker.tokeniser import Tokeniser

Start = Callable[[], None]
"""Hands a prepared request to the core's loop."""
Refusal = Literal["context", "invalid", "grammar"]


class RequestRefused(Exception):  # noqa: N818 - named after what happened
    """A request that is answered with ``Failed`` before any work; see there for the fields."""

    def __init__(
        self, kind: Refusal, message: str, limit: int = 0, requested: int = 0, *, is_lower_bound: bool = False
    ) -> None:
        super().__init__(message)
        self._kind: Refusal = kind
        self._limit = limit
        self._requested = requested
        self._is_lower_bound = is_lower_bound

    def answer(self, request: int) -> Failed:
        """Return the answer to the refused request."""
        return Failed(
            request,
            self._kind,
            str(self),
            limit=self._limit,
            requested=self._requested,
            is_lower_bound=self._is_lower_bound,
        )


class EngineCore(ABC):
    """A loaded model, and the loop that runs requests over it.

    ``max_requests`` choices may run and wait together. ``prepare`` belongs to the event loop of the socket; ``loop`` is
    run by another thread.
    """

    def __init__(self, loaded: LoadedModel, loop: BatchLoop[Any, Any], info: ModelInfo) -> None:
        self.loop = loop
        self.info = info
        self.max_requests = loaded.sizes.num_sequences + loaded.settings.max_queue
        self._loaded = loaded
        self._tokeniser = Tokeniser(loaded.model.vocabulary)

    @property
    def native_started(self) -> float | None:
        """When the native call began that runs for the longest time, on the monotonic clock; None if there is none."""
        return self.loop.step_started

    @property
    def statistics(self) -> EngineStatistics:
        """The loop's counts, and the memory of the KV cache."""
        return msgspec.structs.replace(self.loop.statistics, kv_bytes=self._loaded.memory_bytes)

    def warm_up(self) -> None:  # noqa: B027 - most cores have nothing to do
        """Do in advance what the first request would wait for; runs on a thread of its own."""

    async def prepare(self, connection: int, request: Request, arrived: float) -> Start | Answer:
        """Check and tokenise one request: return how to start it, or its answer if nothing is to run.

        ``arrived`` is when it came, on the monotonic clock. Cancelling stops the preparation.
        """
        try:
            if isinstance(request, Tokenize):
                ids = await self._tokeniser.encode(request.prompts)
                shown = () if request.only_lengths else tuple(map(tuple, ids))
                return Tokenized(request.id, shown, tuple(map(len, ids)))
            return await self._prepare((connection, request.id), request, arrived)
        except RequestRefused as refused:
            return refused.answer(request.id)
        except TokenIdError as error:
            return Failed(request.id, "invalid", str(error))

    def cancel(self, connection: int, request: int | None = None) -> None:
        """Stop one request, or all of a connection's."""
        self.loop.cancel(CancelTask(connection, request))

    @abstractmethod
    async def _prepare(self, key: tuple[int, int], request: Request, arrived: float) -> Start | Answer:
        """Do what ``prepare`` says for a request that is not ``Tokenize``.

        Raises:
            RequestRefused, TokenIdError: the request cannot run.
        """

    async def _encode(self, *prompts: Prompt, num_more: int = 0, whole: bool = False) -> list[list[int]]:
        """Return the token ids of each prompt; ``num_more`` tokens are to follow.

        A text that cannot fit, even if each of its tokens were the longest of the vocabulary, is not tokenised.

        Raises:
            RequestRefused: there is such a text.
            TokenIdError: an id outside the vocabulary.
        """
        vocabulary, limit = self._loaded.model.vocabulary, self._loaded.sizes.context_size
        least = max(map(vocabulary.min_tokens, prompts), default=0)
        if least > limit:
            message = f"at least {least} prompt tokens and {num_more} more exceed the context of {limit}"
            raise RequestRefused("context", message, limit, least + num_more, is_lower_bound=True)
        return await self._tokeniser.encode(prompts, whole=whole)

    def _check_length(self, prompt: list[int], num_more: int) -> None:
        requested, limit = len(prompt) + num_more, self._loaded.sizes.context_size
        if not prompt:
            raise RequestRefused("invalid", "the prompt is empty")
        if requested > limit:
            message = f"{len(prompt)} prompt tokens and {num_more} more exceed the context of {limit}"
            raise RequestRefused("context", message, limit, requested)

    def _refuse_kind(self, does: str) -> RequestRefused:
        return RequestRefused("invalid", f"the model {self._loaded.model.description!r} {does}")
