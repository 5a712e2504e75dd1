"""What a request carries besides its body: the client's own request id, and the query of the URL."""

from collections.abc import Iterable, Mapping
from urllib.parse import parse_qsl

from antiphon.protocol import problems
from antiphon.protocol.responses.fields import INCLUDES
from antiphon.server.request.call import Call

_MAX_ID_LENGTH = 512
_MAX_NOTED = 10
_MAX_VALUE = 64


def note_client_id(call: Call) -> None:
    """Put ``X-Client-Request-Id`` into the log line; ``ApiError`` 400 for an id that OpenAI does not allow."""
    given = call.header(b"x-client-request-id")
    if given is None:
        return
    if not given.isascii() or len(given) > _MAX_ID_LENGTH:
        raise problems.bad_request(
            f"Invalid 'X-Client-Request-Id': expected at most {_MAX_ID_LENGTH} ASCII characters.", "X-Client-Request-Id"
        )
    call.note["client_request_id"] = given


def query_parameters(call: Call) -> list[tuple[str, str]]:
    """Return names and values of the URL's query, in order."""
    return parse_qsl(call.scope["query_string"].decode("latin-1"), keep_blank_values=True)


def query_flag(given: Mapping[str, str], name: str) -> bool | None:
    """Return a parameter that is ``true`` or ``false``, None if it is not there. Raises ``ApiError`` 400 for another value."""
    value = given.get(name)
    if value is None:
        return None
    if value not in {"true", "false"}:
        raise problems.not_in_enum(name, value[:_MAX_VALUE], ("true", "false"))
    return value == "true"


def check_includes(given: Iterable[tuple[str, str]]) -> None:
    """Raise ``ApiError`` 400 for a value of ``include`` that does not exist."""
    for name, value in given:
        if name in {"include", "include[]"} and value not in INCLUDES:
            raise problems.not_in_enum("include", value[:_MAX_VALUE], INCLUDES)


def refuse_query(call: Call) -> None:
    """Raise ``ApiError`` 400 for any query parameter, on routes that have none."""
    for name, _ in query_parameters(call):
        raise problems.unknown(name, ())


def note_unused_query(call: Call) -> None:
    """Record query parameters in the log line, on GET routes that have none: OpenAI ignores them there."""
    names = [name for name, _ in query_parameters(call)]
    if names:
        call.note["ignored_query"] = names[:_MAX_NOTED]
