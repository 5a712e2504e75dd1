"""The embedding model of vector stores: the server's own backend, with a usage row for every call."""

import time
from collections.abc import Callable, Sequence
from itertools import accumulate

import numpy as np

from antiphon.accounts import Accounts, Principal
from antiphon.accounts.request import Request
from antiphon.backends.base import Backend
from antiphon.protocol.embeddings import EmbeddingRequest
from antiphon.protocol.errors import ApiError
from antiphon.protocol.priority import Priority
from antiphon.search.index_file import Vector
from antiphon.server.model_call import ModelCall
from antiphon.vector_stores.errors import KeyAtLimit, UnreadableFile, no_embedding_model
from antiphon.wire.retry_after import retry_after_s
from antiphon.wire.token_estimate import CHARACTERS_PER_TOKEN

_OPEN = "open"


class ServerEmbedding:
    """Implements ``StoreEmbedding``. ``chosen`` is a model's name; empty: the first embedding model that is served.

    ``counted_as`` returns the name under which the limits count a request for a model.
    """

    def __init__(self, backend: Backend, accounts: Accounts, chosen: str, counted_as: Callable[[str], str]) -> None:
        self._backend = backend
        self._accounts = accounts
        self._chosen = chosen
        self._counted_as = counted_as

    def model(self) -> str:
        if self._chosen:
            if not self._backend.serves(self._chosen):
                raise no_embedding_model()
            return self._chosen
        found = next((model.id for model in self._backend.models if model.kind == "embedding"), None)
        if found is None:
            raise no_embedding_model()
        return found

    async def embed(self, texts: Sequence[str], model: str, account: str, path: str) -> list[Vector]:
        # The usage row needs the key alone; the request that caused this was held to the key's limits.
        principal = Principal(key_id=None if account == _OPEN else account)
        request = Request(principal=principal, model=model, kind="embedding")
        call = ModelCall(path)
        try:
            return await self._vectors(call, texts, model, "interactive")
        finally:
            self._accounts.record(request, call.outcome)

    async def embed_within_limits(self, texts: Sequence[str], model: str, account: str, path: str) -> list[Vector]:
        principal = await self._accounts.principal_of(account)
        counted_as = self._counted_as(model)
        tpm = self._accounts.limits_of(principal, counted_as, "embedding").tpm
        some, num_tokens = _within(texts, tpm)
        call = ModelCall(path)
        try:
            admission = await self._accounts.admit(
                principal,
                model=model,
                kind="embedding",
                counted_as=counted_as,
                estimated_tokens=num_tokens,
                request_id=call.outcome.request_id,
                path=path,
                yields=True,
            )
        except ApiError as error:
            wait_s = retry_after_s(error.headers, time.time())
            if wait_s is not None:
                raise KeyAtLimit(wait_s) from error
            raise UnreadableFile("server_error", f"The file was not embedded. {error.message}") from error
        try:
            return await self._vectors(call, some, model, "batch")
        finally:
            await admission.settle(call.outcome)

    async def _vectors(self, call: ModelCall, texts: Sequence[str], model: str, priority: Priority) -> list[Vector]:
        raw = {"model": model, "input": list(texts)}
        request = EmbeddingRequest(model=model, inputs=tuple(texts), raw=raw, priority=priority)
        result = await call.run(self._backend.embed(request))
        return [np.frombuffer(vector, dtype="<f4") for vector in result.vectors]


def _within(texts: Sequence[str], tpm: int | None) -> tuple[Sequence[str], int]:
    """Return the first texts, one at least, that fit half of a minute's tokens together, and their tokens, estimated.

    The other half is left to requests: see ``Limiter.reserve``.
    """
    sums = [characters // CHARACTERS_PER_TOKEN for characters in accumulate(map(len, texts))]
    count = len(texts) if tpm is None else max(sum(tokens <= tpm // 2 for tokens in sums), 1)
    return texts[:count], max(sums[count - 1], 1)
