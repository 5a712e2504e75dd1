"""The reranker of vector stores: the server's own backend, admitted and accounted for like ``POST /v1/rerank``."""

from collections.abc import Callable, Sequence

from antiphon.accounts import Accounts, Principal
from antiphon.backends.base import Backend
from antiphon.protocol import problems
from antiphon.protocol.events import Usage
from antiphon.protocol.rerank import RerankRequest
from antiphon.protocol.vector_stores import RANKERS
from antiphon.server.model_call import ModelCall
from antiphon.server.request.reservation import reservation_of_rerank

_NONE = "none"


class ServerRanking:
    """Implements ``StoreRanking``. ``chosen`` is a model's name; empty: the first reranker that is served; ``none``: none of them.

    ``counted_as`` returns the name under which the limits count a request for a model.
    """

    def __init__(self, backend: Backend, accounts: Accounts, chosen: str, counted_as: Callable[[str], str]) -> None:
        self._backend = backend
        self._accounts = accounts
        self._chosen = chosen
        self._counted_as = counted_as

    async def reranker(self, ranker: str, account: str, param: str) -> str | None:
        if ranker == _NONE:
            return None
        principal = await self._accounts.principal_of(account)
        served = self._served(principal)
        if ranker in RANKERS:
            return None if self._chosen == _NONE else next(iter(served), None)
        if ranker not in served:
            raise problems.not_in_enum(param, ranker, (*RANKERS, *served))
        return ranker

    def _served(self, principal: Principal) -> list[str]:
        """Return the rerankers that a key may use; the one of the settings first."""
        found = [model.id for model in self._backend.models if model.kind == "reranker"]
        if self._chosen not in {"", _NONE}:
            found = [self._chosen, *(name for name in found if name != self._chosen)]
        return [name for name in found if principal.may_use(name)]

    async def relevance(
        self, question: str, passages: Sequence[str], model: str, account: str, path: str
    ) -> Sequence[float]:
        principal = await self._accounts.principal_of(account)
        request = RerankRequest(model=model, query=question, documents=tuple(passages))
        reservation = reservation_of_rerank(request)
        call = ModelCall(path)
        admission = await self._accounts.admit(
            principal,
            model=model,
            kind="rerank",
            counted_as=self._counted_as(model),
            estimated_tokens=reservation.reserved,
            expected=Usage(reservation.prompt, 0),
            request_id=call.outcome.request_id,
            path=path,
        )
        try:
            return (await call.run(self._backend.rerank(request))).relevance
        finally:
            await admission.settle(call.outcome)
