"""``GET /openapi.json``: a description of this server for programs."""

from functools import cache

import msgspec

from antiphon import __version__
from antiphon.protocol.openapi import openapi_document
from antiphon.server.request.call import Call


async def openapi(call: Call) -> None:
    """Send the OpenAPI document; it needs no key."""
    await call.respond(_document())


@cache
def _document() -> bytes:
    return msgspec.json.encode(openapi_document(__version__))
