"""The embedding model of vector stores: the server's own backend, with a usage row for every call."""

import secrets
import time
from collections.abc import Sequence

import numpy as np

from antiphon.accounts import Accounts, Outcome, Principal, how_it_failed
from antiphon.accounts.request import Request
from antiphon.backends.base import Backend
from antiphon.protocol.embeddings import EmbeddingRequest
from antiphon.protocol.events import Usage
from antiphon.search.index_file import Vector
from antiphon.vector_stores.errors import no_embedding_model

_OPEN = "open"


class ServerEmbedding:
    """Implements ``StoreEmbedding``. ``chosen`` is a model's name; empty: the first embedding model that is served."""

    def __init__(self, backend: Backend, accounts: Accounts, chosen: str) -> None:
        self._backend = backend
        self._accounts = accounts
        self._chosen = chosen

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
        request_id = f"req_{secrets.token_hex(16)}"
        started_at, started = time.time(), time.perf_counter()
        try:
            raw = {"model": model, "input": list(texts)}
            result = await self._backend.embed(EmbeddingRequest(model=model, inputs=tuple(texts), raw=raw))
        except BaseException as error:
            status, error_code = how_it_failed(error)
            outcome = Outcome(
                request_id=request_id,
                started_at=started_at,
                duration_s=time.perf_counter() - started,
                status=status,
                error_code=error_code,
                path=path,
            )
            self._accounts.record(request, outcome)
            raise
        outcome = Outcome(
            request_id=request_id,
            started_at=started_at,
            duration_s=time.perf_counter() - started,
            model=result.model,
            usage=Usage(result.prompt_tokens),
            compute_s=result.compute_s,
            path=path,
        )
        self._accounts.record(request, outcome)
        return [np.frombuffer(vector, dtype="<f4") for vector in result.vectors]
