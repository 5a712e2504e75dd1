"""The ASGI application: every route of the server, in one table."""

from collections.abc import Mapping

from starlette.routing import Route, Router

from antiphon.server.endpoint import Endpoint, Handler, unknown_route
from antiphon.server.metrics import metrics
from antiphon.server.routes.generation import chat_completions, completions, embeddings
from antiphon.server.routes.health import health
from antiphon.server.routes.models import delete_model, list_models, retrieve_model
from antiphon.server.routes.openapi import openapi
from antiphon.server.routes.organization import costs, usage_completions, usage_embeddings
from antiphon.server.routes.tokens import tokenize
from antiphon.server.service import Service

ROUTES: Mapping[str, Mapping[str, Handler]] = {
    "/v1/chat/completions": {"POST": chat_completions},
    "/v1/embeddings": {"POST": embeddings},
    "/v1/completions": {"POST": completions},
    "/v1/models": {"GET": list_models},
    "/v1/models/{model:path}": {"GET": retrieve_model, "DELETE": delete_model},
    "/tokenize": {"POST": tokenize},
    "/v1/organization/usage/completions": {"GET": usage_completions},
    "/v1/organization/usage/embeddings": {"GET": usage_embeddings},
    "/v1/organization/costs": {"GET": costs},
    "/health": {"GET": health},
    "/metrics": {"GET": metrics},
    "/openapi.json": {"GET": openapi},
}


class _AnyMethod(dict[str, Handler]):
    """The handlers of a path that does not exist: the same for each method."""

    def __missing__(self, method: str) -> Handler:
        return unknown_route

    def __contains__(self, method: object) -> bool:
        return True


def create_app(service: Service) -> Router:
    """Return the application that answers for ``service``; it owns nothing and has no lifespan of its own."""
    routes = [Route(path, Endpoint(service, path, handlers)) for path, handlers in ROUTES.items()]
    missing = Endpoint(service, "unknown", _AnyMethod())
    return Router(routes, default=missing, redirect_slashes=False)
