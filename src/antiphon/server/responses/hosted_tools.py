"""What becomes of hosted tools in one request: the setting ``[responses] hosted_tools``, or the request's own header."""

from antiphon.protocol import problems
from antiphon.protocol.responses.tools import HostedTools
from antiphon.server.request.call import Call

HEADER = "x-antiphon-hosted-tools"
"""Header of a request; clients that name hosted tools unasked set it once, in their configuration."""


def hosted_tools_of(call: Call, setting: HostedTools) -> HostedTools:
    """Return ``refuse`` or ``leave-out``. Raises ``ApiError`` 400 for a header with another value."""
    given = call.header(HEADER.encode())
    if given is None:
        return setting
    if given not in {"refuse", "leave-out"}:
        raise problems.bad_request(
            f"Invalid header '{HEADER}': {given[:64]!r}. Supported values are: 'refuse' and 'leave-out'.",
            HEADER,
            "invalid_value",
        )
    return given  # pyright: ignore[reportReturnType] - one of the two
