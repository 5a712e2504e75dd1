"""``GET /v1/models`` and ``GET /v1/models/{model}``."""

from typing import Any

from antiphon.backends.base import BackendModel
from antiphon.protocol.errors import ApiError
from antiphon.protocol.rendering import model_value
from antiphon.server.request.access import Access
from antiphon.server.request.call import Call, Handler
from antiphon.server.request.query import note_unused_query, query_parameters, refuse_query


class ModelRoutes:
    """``unknown`` answers for a path without a model's name."""

    def __init__(self, access: Access, unknown: Handler) -> None:
        self._access = access
        self._unknown = unknown

    async def list_models(self, call: Call) -> None:
        """List every name that this key may use, aliases included."""
        principal = await self._access.authenticate(call)
        note_unused_query(call)
        models = self._access.models(principal)
        listed: dict[str, Any] = {"object": "list", "data": [render_model(model) for model in models]}
        if "client_version" in dict(query_parameters(call)):
            # Codex reads its own list of model descriptions here, and falls back to its built-in ones without entries.
            listed["models"] = []
        await call.respond_json(listed)

    async def retrieve_model(self, call: Call) -> None:
        """Describe one model, also under a name that a pattern answers; 404 for a name that is not served."""
        note_unused_query(call)
        await call.respond_json(render_model(await self._find(call)))

    async def delete_model(self, call: Call) -> None:
        """Refuse: models are removed on the machine (``antiphon models remove``), not over the API."""
        refuse_query(call)
        await self._find(call)
        raise ApiError(403, "Models of this server are removed with `antiphon models remove`, not over the API.")

    async def _find(self, call: Call) -> BackendModel:
        principal = await self._access.authenticate(call)
        name = call.path_param("model")
        if not name:
            await self._unknown(call)
        return self._access.describe(principal, name)


def render_model(model: BackendModel) -> dict[str, Any]:
    """Return the wire form; ``context_length`` and ``kind`` are additions that clients ignore or use."""
    return {**model_value(model), "kind": model.kind, "context_length": model.context_length}
