"""What a request carries besides its body: the client's own request id, and the query of the URL."""

from collections.abc import Collection, Mapping
from urllib.parse import parse_qsl

from antiphon.protocol import problems
from antiphon.protocol.errors import ApiError
from antiphon.protocol.responses.fields import INCLUDES
from antiphon.server.request.call import Call

_MAX_ID_LENGTH = 512
_MAX_NOTED = 10
_MAX_VALUE = 64
_INCLUDE = "include"


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


def query_values(call: Call) -> dict[str, str]:
    """Return the URL's query by names. ``ApiError`` 400 for a parameter that comes twice.

    ``include`` may come any number of times, also as ``include[]``; ``ApiError`` 400 for a value of it that does not exist.
    """
    values: dict[str, str] = {}
    for written, value in query_parameters(call):
        name = _INCLUDE if written == f"{_INCLUDE}[]" else written
        if name == _INCLUDE and value not in INCLUDES:
            raise problems.not_in_enum(_INCLUDE, value[:_MAX_VALUE], INCLUDES)
        if name in values and name != _INCLUDE:
            raise given_twice(name)
        values[name] = value
    return values


def given_twice(name: str) -> ApiError:
    """400: which of the values would count?"""
    return problems.bad_request(f"Invalid '{name}': it is given more than once.", name, "invalid_value")


def query_flag(given: Mapping[str, str], name: str) -> bool | None:
    """Return a parameter that is ``true`` or ``false``, None if it is not there. Raises ``ApiError`` 400 for another value."""
    value = given.get(name)
    if value is None:
        return None
    if value not in {"true", "false"}:
        raise problems.not_in_enum(name, value[:_MAX_VALUE], ("true", "false"))
    return value == "true"


def refuse_query(call: Call, but: Collection[str] = ()) -> None:
    """Raise ``ApiError`` 400 for a query parameter that the route does not have; ``but`` names those that it has."""
    for name in query_values(call):
        if name not in but:
            raise problems.unknown(name, ())


def note_unused_query(call: Call) -> None:
    """Record query parameters in the log line, on GET routes that have none: OpenAI ignores them there."""
    names = [name for name, _ in query_parameters(call)]
    if names:
        call.note["ignored_query"] = names[:_MAX_NOTED]
