"""``GET /health`` for supervisors and load balancers."""

from antiphon.server.request.call import Call


async def health(call: Call) -> None:
    """200 when requests would be answered, 503 while a model loads or is down; no key asked."""
    state = call.service.backend.health()
    status = 200 if state.state == "ready" else 503
    await call.respond(call.service.encode({"status": state.state, "detail": state.detail}), status=status)
