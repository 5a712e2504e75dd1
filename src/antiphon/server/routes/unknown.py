"""The answer for a path that nothing serves: 404, with the path that was probably meant."""

import difflib
from collections.abc import Sequence

from antiphon.protocol.errors import ApiError
from antiphon.server.request.call import Call, Handler

_MAX_PATH = 200
_LIKENESS = 0.8
"""How alike a path must be to be suggested, from 0 to 1: a letter or a segment apart."""


def unknown_route(paths: Sequence[str]) -> Handler:
    """Return the handler. ``paths`` are those that are served; a path that lacks ``/v1`` gets a hint."""

    async def unknown(call: Call) -> None:
        path = call.scope["path"][:_MAX_PATH]
        raise ApiError(
            404,
            f"Invalid URL ({call.scope['method']} {path}).{_hint(path, paths)} GET / lists the paths of this server.",
            code="unknown_url",
        )

    return unknown


def _hint(path: str, paths: Sequence[str]) -> str:
    if (served := "/v1" + path) in paths or path.startswith("/models/"):
        return f" Did you mean {served}? The base URL of this API ends in /v1."
    if (served := path.removeprefix("/v1")) in paths:
        return f" Did you mean {served}?"
    if close := difflib.get_close_matches(path, paths, n=1, cutoff=_LIKENESS):
        return f" Did you mean {close[0]}?"
    if path.startswith("/v1/"):
        return " It is not served here; [gateway] default_upstream names another API to which such requests are sent."
    return ""
