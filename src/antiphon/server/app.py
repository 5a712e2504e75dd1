"""The ASGI application: every route of the server, in one table."""

from collections.abc import Callable, Mapping

from starlette.routing import Route, Router

from antiphon.server.endpoint import Endpoint
from antiphon.server.request.call import Handler
from antiphon.server.routes.conversations import ConversationRoutes
from antiphon.server.routes.files import FileRoutes
from antiphon.server.routes.generation import GenerationRoutes
from antiphon.server.routes.health import health_route
from antiphon.server.routes.metrics import metrics_route
from antiphon.server.routes.models import ModelRoutes
from antiphon.server.routes.openapi import openapi
from antiphon.server.routes.organization import OrganizationRoutes
from antiphon.server.routes.responses import ResponseRoutes
from antiphon.server.routes.root import root_route
from antiphon.server.routes.stored_completions import StoredCompletionRoutes
from antiphon.server.routes.tokens import TokenRoutes
from antiphon.server.routes.unknown import unknown_route
from antiphon.server.routes.uploads import UploadRoutes
from antiphon.server.service import Service


class Handlers:
    """The handlers of one server; each group gets the parts that it needs and no others."""

    def __init__(self, service: Service) -> None:
        self.generation = GenerationRoutes(
            service.backend,
            access=service.access,
            admissions=service.admissions,
            in_flight=service.in_flight,
            bodies=service.bodies,
            cache=service.cache,
            store=service.completions,
        )
        self.responses = ResponseRoutes(
            service.backend,
            access=service.access,
            admissions=service.admissions,
            in_flight=service.in_flight,
            bodies=service.bodies,
            store=service.responses,
            jobs=service.jobs,
            turns=service.turns,
            intake=service.intake,
            answers=service.answers,
            relay=service.response_relay,
        )
        self.stored_completions = StoredCompletionRoutes(service.access, service.bodies, service.completions)
        self.conversations = ConversationRoutes(service.access, service.bodies, service.conversations)
        self.files = FileRoutes(service.access, service.admissions, service.forms, service.files)
        self.uploads = UploadRoutes(
            service.access,
            service.admissions,
            service.bodies,
            service.forms,
            files=service.files,
            uploads=service.uploads,
        )
        self.unknown = unknown_route(PATHS)
        self.models = ModelRoutes(service.access, self.unknown)
        self.tokens = TokenRoutes(
            service.backend,
            access=service.access,
            admissions=service.admissions,
            in_flight=service.in_flight,
            bodies=service.bodies,
        )
        self.organization = OrganizationRoutes(service.access, service.accounts.report)
        self.root = root_route(PATHS)
        self.health = health_route(service.backend)
        self.metrics = metrics_route(service.metrics)


ROUTES: Mapping[str, Mapping[str, Callable[[Handlers], Handler]]] = {
    "/v1/chat/completions": {
        "POST": lambda to: to.generation.chat_completions,
        "GET": lambda to: to.stored_completions.list_completions,
    },
    "/v1/chat/completions/{completion_id}": {
        "GET": lambda to: to.stored_completions.retrieve,
        "POST": lambda to: to.stored_completions.update,
        "DELETE": lambda to: to.stored_completions.delete,
    },
    "/v1/chat/completions/{completion_id}/messages": {"GET": lambda to: to.stored_completions.list_messages},
    "/v1/completions": {"POST": lambda to: to.generation.completions},
    "/v1/responses": {"POST": lambda to: to.responses.create, "GET": lambda to: to.responses.upgrade},
    "/v1/responses/input_tokens": {"POST": lambda to: to.responses.count_input_tokens},
    "/v1/responses/compact": {"POST": lambda to: to.responses.compact},
    "/v1/responses/{response_id}": {
        "GET": lambda to: to.responses.retrieve,
        "DELETE": lambda to: to.responses.delete,
    },
    "/v1/responses/{response_id}/cancel": {"POST": lambda to: to.responses.cancel},
    "/v1/responses/{response_id}/input_items": {"GET": lambda to: to.responses.list_input_items},
    "/v1/conversations": {"POST": lambda to: to.conversations.create},
    "/v1/conversations/{conversation_id}": {
        "GET": lambda to: to.conversations.retrieve,
        "POST": lambda to: to.conversations.update,
        "DELETE": lambda to: to.conversations.delete,
    },
    "/v1/conversations/{conversation_id}/items": {
        "GET": lambda to: to.conversations.list_items,
        "POST": lambda to: to.conversations.add_items,
    },
    "/v1/conversations/{conversation_id}/items/{item_id}": {
        "GET": lambda to: to.conversations.retrieve_item,
        "DELETE": lambda to: to.conversations.delete_item,
    },
    "/v1/embeddings": {"POST": lambda to: to.generation.embeddings},
    "/v1/files": {"GET": lambda to: to.files.list_files, "POST": lambda to: to.files.create},
    "/v1/files/{file_id}": {"GET": lambda to: to.files.retrieve, "DELETE": lambda to: to.files.delete},
    "/v1/files/{file_id}/content": {"GET": lambda to: to.files.content},
    "/v1/uploads": {"POST": lambda to: to.uploads.create},
    "/v1/uploads/{upload_id}/parts": {"POST": lambda to: to.uploads.add_part},
    "/v1/uploads/{upload_id}/complete": {"POST": lambda to: to.uploads.complete},
    "/v1/uploads/{upload_id}/cancel": {"POST": lambda to: to.uploads.cancel},
    "/v1/models": {"GET": lambda to: to.models.list_models},
    "/v1/models/{model:path}": {
        "GET": lambda to: to.models.retrieve_model,
        "DELETE": lambda to: to.models.delete_model,
    },
    "/tokenize": {"POST": lambda to: to.tokens.tokenize},
    "/v1/organization/usage/completions": {"GET": lambda to: to.organization.usage_completions},
    "/v1/organization/usage/embeddings": {"GET": lambda to: to.organization.usage_embeddings},
    "/v1/organization/costs": {"GET": lambda to: to.organization.costs},
    "/health": {"GET": lambda to: to.health},
    "/metrics": {"GET": lambda to: to.metrics},
    "/openapi.json": {"GET": lambda _: openapi},
    "/": {"GET": lambda to: to.root},
}
PATHS = tuple(path.replace(":path", "") for path in ROUTES if path != "/")
"""What is served, as messages and ``GET /`` show it."""


class _AnyMethod(dict[str, Handler]):
    """The handlers of a path that does not exist: one for all methods."""

    def __init__(self, handler: Handler) -> None:
        super().__init__()
        self._handler = handler

    def __missing__(self, method: str) -> Handler:
        return self._handler

    def __contains__(self, method: object) -> bool:
        return True


def create_app(service: Service) -> Router:
    """Return the application that answers for ``service``; it owns nothing and has no lifespan of its own."""
    handlers = Handlers(service)
    before = service.forwarder.before
    table = [
        Route(path, Endpoint(service.shell, path, {method: before(pick(handlers)) for method, pick in methods.items()}))
        for path, methods in ROUTES.items()
    ]
    missing = Endpoint(service.shell, "unknown", _AnyMethod(service.forwarder.otherwise(handlers.unknown)))
    return Router(table, default=missing, redirect_slashes=False)
