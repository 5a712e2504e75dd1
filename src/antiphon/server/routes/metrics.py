"""``GET /metrics`` in Prometheus' text format."""

from antiphon.server.metrics import CONTENT_TYPE, Metrics
from antiphon.server.request.call import Call, Handler


def metrics_route(metrics: Metrics) -> Handler:
    """Return the handler. It needs no key, as scrapers expect: outside loopback, restrict who can reach the port."""

    async def show_metrics(call: Call) -> None:
        await call.respond(metrics.render(), headers=[(b"content-type", CONTENT_TYPE)])

    return show_metrics
