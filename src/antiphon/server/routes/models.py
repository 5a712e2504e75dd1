"""``GET /v1/models`` and ``GET /v1/models/{model}``."""

from typing import Any

from antiphon.backends.base import BackendModel
from antiphon.protocol.errors import ApiError, model_not_found
from antiphon.protocol.rendering import model_value
from antiphon.server.endpoint import unknown_route
from antiphon.server.request.call import Call
from antiphon.server.request.query import refuse_query


async def list_models(call: Call) -> None:
    """List every name that this key may ask for, aliases included."""
    principal = await call.service.authenticate(call)
    refuse_query(call)
    models = [m for m in call.service.backend.models if call.service.may_use(principal, m.id)]
    await call.respond(call.service.encode({"object": "list", "data": [render_model(m) for m in models]}))


async def retrieve_model(call: Call) -> None:
    """Describe one model; 404 for a name that is not served."""
    await call.respond(call.service.encode(render_model(await _find(call))))


async def delete_model(call: Call) -> None:
    """Refuse: models are removed on the machine (``antiphon models remove``), not over the API."""
    await _find(call)
    raise ApiError(403, "Models of this server are removed with `antiphon models remove`, not over the API.")


async def _find(call: Call) -> BackendModel:
    principal = await call.service.authenticate(call)
    refuse_query(call)
    name = call.path_param("model")
    if not name:
        await unknown_route(call)
    for model in call.service.backend.models:
        if model.id == name and call.service.may_use(principal, name):
            return model
    raise model_not_found(name)


def render_model(model: BackendModel) -> dict[str, Any]:
    """Return the wire form; ``context_length`` and ``kind`` are additions that clients ignore or use."""
    return {**model_value(model), "kind": model.kind, "context_length": model.context_length}
