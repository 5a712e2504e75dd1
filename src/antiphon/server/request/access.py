"""Who sends a request, and which models that key may use."""

from typing import Any, cast

from antiphon.accounts import Accounts, Principal
from antiphon.backends.base import AliasingBackend, Backend, BackendModel
from antiphon.protocol.errors import model_not_found
from antiphon.server.request.call import Call

_MAX_LISTED = 20
_MAX_NAME = 200


class Access:
    """Answers for one server's keys and models."""

    def __init__(self, accounts: Accounts, backend: Backend) -> None:
        self._accounts = accounts
        self._backend = backend

    async def authenticate(self, call: Call) -> Principal:
        """Return who sends the request; ``ApiError`` 401 in OpenAI's words."""
        principal = call.principal or await self._accounts.authenticate(call.header(b"authorization"))
        call.note["key"] = principal.name
        return principal

    def require_model(self, principal: Principal, model: str) -> None:
        """Raise ``ApiError`` 404 for a model that is not served, or not to this key; both read the same."""
        if not (principal.may_use(model) and self._backend.serves(model)):
            names = [served.id for served in self.models(principal)]
            raise model_not_found(model[:_MAX_NAME], names[:_MAX_LISTED])

    def require_named_model(self, principal: Principal, body: Any) -> None:
        """The same for the model that a decoded body names; what is wrong with the name itself is for the parser to say."""
        model = cast("dict[str, Any]", body).get("model") if isinstance(body, dict) else None
        if isinstance(model, str) and model:
            self.require_model(principal, model)

    def models(self, principal: Principal) -> list[BackendModel]:
        """Return the models that the key may use, aliases included."""
        return [model for model in self._backend.models if principal.may_use(model.id)]

    def describe(self, principal: Principal, model: str) -> BackendModel:
        """Return what is known of a model, also under a name that a pattern answers; ``ApiError`` 404 as above."""
        self.require_model(principal, model)
        listed = next((known for known in self._backend.models if known.id == model), None)
        if listed is not None:
            return listed
        found = self._backend.describe(model) if isinstance(self._backend, AliasingBackend) else None
        return found or BackendModel(model, 0, "antiphon", "chat")
