"""Errors of the shared parts in the words of this endpoint: they name chat's parameters, the request has others."""

import re

from antiphon.protocol.errors import ApiError

_NAMES = {
    "max_completion_tokens": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "verbosity": "text.verbosity",
    "messages": "input",
}
_NAME = re.compile(r"\b(" + "|".join(_NAMES) + r")\b")


def own_words(error: ApiError) -> ApiError:
    """Return an error about a request in the words of responses; any other as it is."""
    if error.status != 400 or error.param is None:  # noqa: PLR2004 - HTTP
        return error
    head, separator, rest = error.param.partition("[")
    param = _NAMES.get(head, head)
    return ApiError(
        error.status,
        _NAME.sub(lambda match: _NAMES[match[1]], error.message),
        type=error.type,
        param=param + separator + rest.replace(".function.", "."),
        code=error.code,
        headers=error.headers,
    )
