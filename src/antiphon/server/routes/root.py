"""``GET /``: what this server is, for a person who opens its address or a program that probes it."""

from collections.abc import Sequence

from antiphon import __version__
from antiphon.server.request.call import Call, Handler


def root_route(paths: Sequence[str]) -> Handler:
    """Return the handler; it needs no key. ``paths`` are those that are served."""

    async def root(call: Call) -> None:
        host = call.header(b"host")
        base_url = f"{call.scope.get('scheme', 'http')}://{host}/v1" if host else "/v1"
        await call.respond_json(
            {
                "name": "Antiphon",
                "version": __version__,
                "description": "An OpenAI-compatible API. Set your client's base URL to base_url.",
                "base_url": base_url,
                "paths": list(paths),
                "openapi": "/openapi.json",
            }
        )

    return root
