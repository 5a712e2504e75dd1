"""The ASGI application: every route of the server, in one table."""

from collections.abc import Callable, Mapping

import msgspec
from starlette.routing import BaseRoute, Route, Router, WebSocketRoute
from starlette.types import ASGIApp

from antiphon.server.console import static_files
from antiphon.server.console.keys import KeyRoutes
from antiphon.server.console.models import ModelPageRoutes
from antiphon.server.console.requests import RequestRoutes
from antiphon.server.console.session import SessionRoutes
from antiphon.server.console.usage import UsageRoutes
from antiphon.server.endpoint import Endpoint, SocketEndpoint
from antiphon.server.forwarding import HEADER
from antiphon.server.request.asgi import Receive, Send
from antiphon.server.request.call import Handler
from antiphon.server.request.headers import Scope, header
from antiphon.server.request.parts import RequestParts
from antiphon.server.routes import forwarded_socket, response_socket
from antiphon.server.routes.batches import BatchRoutes
from antiphon.server.routes.conversations import ConversationRoutes
from antiphon.server.routes.files import FileRoutes
from antiphon.server.routes.forwarded_socket import SocketForwarder, refuse_unknown_socket
from antiphon.server.routes.generation import GenerationRoutes
from antiphon.server.routes.health import health_route
from antiphon.server.routes.metrics import metrics_route
from antiphon.server.routes.models import ModelRoutes
from antiphon.server.routes.openapi import openapi
from antiphon.server.routes.organization import OrganizationRoutes
from antiphon.server.routes.rerank import RerankRoutes
from antiphon.server.routes.response_socket import ResponseSockets
from antiphon.server.routes.responses import ResponseRoutes
from antiphon.server.routes.root import root_route
from antiphon.server.routes.stored_completions import StoredCompletionRoutes
from antiphon.server.routes.tokens import TokenRoutes
from antiphon.server.routes.unknown import unknown_route
from antiphon.server.routes.uploads import UploadRoutes
from antiphon.server.routes.vector_store_files import VectorStoreFileRoutes
from antiphon.server.routes.vector_stores import VectorStoreRoutes
from antiphon.server.service import Service


def generation_routes(service: Service, requests: RequestParts) -> GenerationRoutes:
    """Return the handlers of the endpoints that generate, for those whom ``requests`` lets in."""
    return GenerationRoutes(service.backend, requests, cache=service.cache, store=service.completions)


def response_routes(service: Service, requests: RequestParts) -> ResponseRoutes:
    """Return the handlers of responses, for those whom ``requests`` lets in."""
    return ResponseRoutes(
        service.backend,
        requests,
        store=service.responses.store,
        jobs=service.responses.jobs,
        turns=service.responses.turns,
        intake=service.responses.intake,
        answers=service.responses.answers,
        relay=service.response_relay(),
        webhooks=service.webhooks,
    )


class Handlers:
    """The handlers of one server; each group gets the parts that it needs and no others."""

    def __init__(self, service: Service) -> None:
        self.generation = generation_routes(service, service.requests)
        self.responses = response_routes(service, service.requests)
        self.stored_completions = StoredCompletionRoutes(service.access, service.bodies, service.completions)
        self.conversations = ConversationRoutes(service.access, service.bodies, service.responses.conversations)
        self.files = FileRoutes(
            service.access,
            service.admissions,
            service.storage.forms,
            service.storage.files,
            service.storage.vector_stores.ingestion.forget_file,
        )
        self.uploads = UploadRoutes(
            service.access,
            service.admissions,
            service.bodies,
            service.storage.forms,
            files=service.storage.files,
            uploads=service.storage.uploads,
        )
        self.batches = BatchRoutes(
            service.access,
            service.bodies,
            store=service.batches.store,
            files=service.storage.files,
            settings=service.batches.settings,
            look=service.batches.runner.look,
        )
        service.batches.runner.answer_with(self._for_batches())
        self.vector_stores = VectorStoreRoutes(
            service.access, service.admissions, service.bodies, service.storage.vector_stores
        )
        self.vector_store_files = VectorStoreFileRoutes(
            service.access, service.admissions, service.bodies, service.storage.vector_stores
        )
        self.unknown = unknown_route(PATHS)
        self.models = ModelRoutes(service.access, self.unknown)
        self.tokens = TokenRoutes(service.backend, service.requests)
        self.reranking = RerankRoutes(service.backend, service.requests, service.forwarder)
        self.organization = OrganizationRoutes(service.access, service.accounts.report)
        self.console = ConsoleHandlers(service)
        self.root = root_route(PATHS)
        self.health = health_route(service.backend)
        self.metrics = metrics_route(service.metrics)

    def _for_batches(self) -> dict[str, Handler]:
        return {
            "/v1/chat/completions": self.generation.chat_completions,
            "/v1/completions": self.generation.completions,
            "/v1/embeddings": self.generation.embeddings,
            "/v1/responses": self.responses.create,
        }


class ConsoleHandlers:
    """The handlers of the console. Its playground has routes of its own, because a session is not a key."""

    def __init__(self, service: Service) -> None:
        parts, accounts, bodies = service.console, service.accounts, service.bodies
        self.session = SessionRoutes(parts.access, bodies, parts.settings, num_workers=parts.num_workers)
        self.requests = RequestRoutes(parts.access, accounts, service.live, parts.feed, parts.capture)
        self.usage = UsageRoutes(parts.access, accounts)
        self.keys = KeyRoutes(parts.access, accounts, bodies)
        self.models = ModelPageRoutes(parts.access, bodies, parts.store, parts.views, parts.fetch)
        requests = msgspec.structs.replace(service.requests, access=parts.access)
        self.generation = generation_routes(service, requests)
        self.responses = response_routes(service, requests)


CONSOLE_ROUTES: Mapping[str, Mapping[str, Callable[["Handlers"], Handler]]] = {
    "/console": {"GET": lambda _: static_files.index},
    "/console/api/session": {
        "GET": lambda to: to.console.session.show,
        "POST": lambda to: to.console.session.sign_in,
        "DELETE": lambda to: to.console.session.sign_out,
    },
    "/console/api/feed": {"GET": lambda to: to.console.requests.feed},
    "/console/api/requests": {"GET": lambda to: to.console.requests.list_requests},
    "/console/api/requests/{request_id}": {"GET": lambda to: to.console.requests.retrieve},
    "/console/api/usage": {"GET": lambda to: to.console.usage.show},
    "/console/api/keys": {
        "GET": lambda to: to.console.keys.list_keys,
        "POST": lambda to: to.console.keys.create,
    },
    "/console/api/keys/{key_id}": {
        "POST": lambda to: to.console.keys.change,
        "DELETE": lambda to: to.console.keys.revoke,
    },
    "/console/api/keys/{key_id}/rotate": {"POST": lambda to: to.console.keys.rotate},
    "/console/api/models": {
        "GET": lambda to: to.console.models.list_models,
        "POST": lambda to: to.console.models.fetch,
    },
    "/console/api/completions": {"POST": lambda to: to.console.generation.completions},
    "/console/api/embeddings": {"POST": lambda to: to.console.generation.embeddings},
    "/console/api/chat/completions": {"POST": lambda to: to.console.generation.chat_completions},
    "/console/api/responses": {"POST": lambda to: to.console.responses.create},
    "/console/{name:path}": {"GET": lambda _: static_files.asset},
}

ROUTES: Mapping[str, Mapping[str, Callable[[Handlers], Handler]]] = {
    # Routes are tried in this order: first those that are asked most.
    "/v1/chat/completions": {
        "POST": lambda to: to.generation.chat_completions,
        "GET": lambda to: to.stored_completions.list_completions,
    },
    "/v1/responses": {"POST": lambda to: to.responses.create, "GET": lambda to: to.responses.upgrade},
    "/v1/completions": {"POST": lambda to: to.generation.completions},
    "/v1/embeddings": {"POST": lambda to: to.generation.embeddings},
    "/v1/chat/completions/{completion_id}": {
        "GET": lambda to: to.stored_completions.retrieve,
        "POST": lambda to: to.stored_completions.update,
        "DELETE": lambda to: to.stored_completions.delete,
    },
    "/v1/chat/completions/{completion_id}/messages": {"GET": lambda to: to.stored_completions.list_messages},
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
    "/v1/rerank": {"POST": lambda to: to.reranking.rerank},
    "/v1/files": {"GET": lambda to: to.files.list_files, "POST": lambda to: to.files.create},
    "/v1/files/{file_id}": {"GET": lambda to: to.files.retrieve, "DELETE": lambda to: to.files.delete},
    "/v1/files/{file_id}/content": {"GET": lambda to: to.files.content},
    "/v1/uploads": {"POST": lambda to: to.uploads.create},
    "/v1/uploads/{upload_id}/parts": {"POST": lambda to: to.uploads.add_part},
    "/v1/uploads/{upload_id}/complete": {"POST": lambda to: to.uploads.complete},
    "/v1/uploads/{upload_id}/cancel": {"POST": lambda to: to.uploads.cancel},
    "/v1/batches": {"GET": lambda to: to.batches.list_batches, "POST": lambda to: to.batches.create},
    "/v1/batches/{batch_id}": {"GET": lambda to: to.batches.retrieve},
    "/v1/batches/{batch_id}/cancel": {"POST": lambda to: to.batches.cancel},
    "/v1/vector_stores": {
        "GET": lambda to: to.vector_stores.list_stores,
        "POST": lambda to: to.vector_stores.create,
    },
    "/v1/vector_stores/{vector_store_id}": {
        "GET": lambda to: to.vector_stores.retrieve,
        "POST": lambda to: to.vector_stores.update,
        "DELETE": lambda to: to.vector_stores.delete,
    },
    "/v1/vector_stores/{vector_store_id}/search": {"POST": lambda to: to.vector_stores.search},
    "/v1/vector_stores/{vector_store_id}/files": {
        "GET": lambda to: to.vector_store_files.list_files,
        "POST": lambda to: to.vector_store_files.add,
    },
    "/v1/vector_stores/{vector_store_id}/files/{file_id}": {
        "GET": lambda to: to.vector_store_files.retrieve,
        "POST": lambda to: to.vector_store_files.update,
        "DELETE": lambda to: to.vector_store_files.remove,
    },
    "/v1/vector_stores/{vector_store_id}/files/{file_id}/content": {
        "GET": lambda to: to.vector_store_files.content,
    },
    "/v1/vector_stores/{vector_store_id}/file_batches": {"POST": lambda to: to.vector_store_files.add_batch},
    "/v1/vector_stores/{vector_store_id}/file_batches/{batch_id}": {
        "GET": lambda to: to.vector_store_files.retrieve_batch,
    },
    "/v1/vector_stores/{vector_store_id}/file_batches/{batch_id}/cancel": {
        "POST": lambda to: to.vector_store_files.cancel_batch,
    },
    "/v1/vector_stores/{vector_store_id}/file_batches/{batch_id}/files": {
        "GET": lambda to: to.vector_store_files.list_batch_files,
    },
    "/v1/models": {"GET": lambda to: to.models.list_models},
    "/v1/models/{model:path}": {
        "GET": lambda to: to.models.retrieve_model,
        "DELETE": lambda to: to.models.delete_model,
    },
    "/tokenize": {"POST": lambda to: to.tokens.tokenize},
    "/v1/organization/usage/completions": {"GET": lambda to: to.organization.usage_completions},
    "/v1/organization/usage/embeddings": {"GET": lambda to: to.organization.usage_embeddings},
    "/v1/organization/costs": {"GET": lambda to: to.organization.costs},
    **CONSOLE_ROUTES,
    "/health": {"GET": lambda to: to.health},
    "/metrics": {"GET": lambda to: to.metrics},
    "/openapi.json": {"GET": lambda _: openapi},
    "/": {"GET": lambda to: to.root},
}
PATHS: tuple[str, ...] = tuple(
    path.replace(":path", "") for path in ROUTES if path != "/" and not path.startswith("/console/")
)
"""What is served, as messages and ``GET /`` show it; the console's own endpoints are left out."""


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
    table: list[BaseRoute] = [
        Route(path, Endpoint(service.shell, path, {method: before(pick(handlers)) for method, pick in methods.items()}))
        for path, methods in ROUTES.items()
        if service.console.settings.enabled or path not in CONSOLE_ROUTES
    ]
    forwarded = _forwarded_sockets(service)
    table.append(WebSocketRoute("/v1/responses", _UnlessUpstreamIsNamed(_sockets(service), forwarded)))
    missing = Endpoint(service.shell, "unknown", _AnyMethod(service.forwarder.otherwise(handlers.unknown)))
    return Router(table, default=_either(missing, forwarded), redirect_slashes=False)


def _either(missing: ASGIApp, sockets: ASGIApp) -> ASGIApp:
    """Return what answers for paths that do not exist, HTTP and WebSocket."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await (sockets if scope["type"] == "websocket" else missing)(scope, receive, send)

    return answer


class _UnlessUpstreamIsNamed:
    """Answers WebSocket connections with ``ours``, and forwards one whose header names an upstream."""

    def __init__(self, ours: ASGIApp, forwarded: ASGIApp) -> None:
        self._ours = ours
        self._forwarded = forwarded

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_named = header(scope, HEADER.encode()) is not None
        await (self._forwarded if is_named else self._ours)(scope, receive, send)


def _forwarded_sockets(service: Service) -> SocketEndpoint:
    """Return the application of WebSocket connections to upstreams; without upstreams it refuses each."""
    if service.upstreams is None or service.addressing is None:
        return SocketEndpoint(service.shell, forwarded_socket.CONNECTION_PATH, refuse_unknown_socket)
    forwarder = SocketForwarder(
        service.shell,
        service.upstreams,
        service.addressing,
        service.requests,
        settings=service.gateway.websockets,
        max_bytes=service.settings.max_body_bytes,
    )
    return SocketEndpoint(service.shell, forwarded_socket.CONNECTION_PATH, forwarder.connect)


def _sockets(service: Service) -> SocketEndpoint:
    """Return the application of WebSocket connections for responses."""
    sockets = ResponseSockets(
        service.shell,
        service.backend,
        service.requests,
        intake=service.responses.intake,
        answers=service.responses.answers,
        relay=service.response_socket_relay(),
        settings=service.responses.settings,
        server_settings=service.settings,
    )
    return SocketEndpoint(service.shell, response_socket.CONNECTION_PATH, sockets.connect)
