"""Any POST of the API, by the official client, without its retries; the unchanged answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import anyio.to_thread
import httpx2
from openai import APIResponseValidationError, AsyncOpenAI

from antiphon.toolkit.clients import Connection


@dataclass(frozen=True, slots=True)
class Posted:
    """A successful answer: status, headers (keys in any case), decoded body."""

    status_code: int
    headers: Mapping[str, str]
    body: Any


async def post(connection: Connection, path: str, body: Mapping[str, Any]) -> Posted:
    """POST ``body`` as JSON to ``path`` below the base URL. Raises the client's errors (``openai.APIError`` and below)."""
    client = connection.client.with_options(max_retries=0)
    if isinstance(client, AsyncOpenAI):
        response = await client.post(path, cast_to=httpx2.Response, body=dict(body))
    else:
        response = await anyio.to_thread.run_sync(
            lambda: client.post(path, cast_to=httpx2.Response, body=dict(body)), abandon_on_cancel=True
        )
    try:
        return Posted(response.status_code, response.headers, response.json())
    except ValueError as error:
        raise APIResponseValidationError(response, response.text, message="The answer is not JSON") from error
