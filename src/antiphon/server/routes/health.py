"""``GET /health`` for supervisors and load balancers."""

from antiphon.backends.base import Backend
from antiphon.server.request.call import Call, Handler


def health_route(backend: Backend) -> Handler:
    """Return the handler: 200 when requests would be answered, 503 while a model loads or is down. It needs no key."""

    async def health(call: Call) -> None:
        state = backend.health()
        status = 200 if state.state == "ready" else 503
        await call.respond_json({"status": state.state, "detail": state.detail}, status=status)

    return health
