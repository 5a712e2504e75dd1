"""The answer for a path that nothing serves: 404 with the paths that are served."""

from collections.abc import Sequence

from antiphon.protocol.errors import ApiError
from antiphon.server.request.call import Call, Handler

_MAX_PATH = 200


def unknown_route(paths: Sequence[str]) -> Handler:
    """Return the handler. ``paths`` are those that are served; a path that lacks ``/v1`` gets a hint."""

    async def unknown(call: Call) -> None:
        path = call.scope["path"][:_MAX_PATH]
        hint = ""
        if (served := "/v1" + path) in paths or path.startswith("/models/"):
            hint = f" Did you mean {served}? The base URL of this API ends in /v1."
        elif (served := path.removeprefix("/v1")) in paths:
            hint = f" Did you mean {served}?"
        raise ApiError(
            404,
            f"Invalid URL ({call.scope['method']} {path}).{hint} This server serves: {', '.join(paths)}.",
            code="unknown_url",
        )

    return unknown
