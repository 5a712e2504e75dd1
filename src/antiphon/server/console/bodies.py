"""Reads the small JSON bodies and the queries of the console's endpoints into typed values."""

from typing import TypeVar

import msgspec

from antiphon.protocol import check_content_type
from antiphon.protocol.errors import ApiError
from antiphon.server.request.body import RequestBodies
from antiphon.server.request.call import Call
from antiphon.server.request.query import query_values, refuse_query

T = TypeVar("T", bound=msgspec.Struct)


async def read_body(call: Call, bodies: RequestBodies, form: type[T]) -> T:
    """Return the body as ``form``. Raises ``ApiError`` 400 that names the field, or a parameter in the query, 413, 415."""
    refuse_query(call)
    check_content_type(call.header(b"content-type"))
    async with bodies.read(call) as body:
        try:
            return msgspec.json.decode(body, type=form)
        except (msgspec.ValidationError, ValueError) as error:
            raise _bad(error) from error


def read_query(call: Call, form: type[T]) -> T:
    """Return the query as ``form``; numbers may be written as text. Raises ``ApiError`` 400 that names the parameter."""
    try:
        return msgspec.convert(query_values(call), type=form, strict=False)
    except (msgspec.ValidationError, ValueError) as error:
        raise _bad(error) from error


def _bad(error: Exception) -> ApiError:
    # msgspec ends its messages with the place: "Expected `int`, got `str` - at `$.rpm`".
    message, _, place = str(error).partition(" - at `$")
    param = place.strip("`.") or None
    return ApiError(400, f"Invalid request: {message}.", param=param, code="invalid_value")
