"""A warm-up of an upstream that has no WebSocket: nothing can be computed there beforehand, so it is answered here.

Its response can be continued: the client's connection keeps the input, and sends it with the next request.
"""

import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec

from antiphon.backends.base import RelayOutcome
from antiphon.protocol.events import Usage
from antiphon.protocol.ids import new_id
from antiphon.protocol.relay import RelayRequest

_ECHOED = frozenset(
    {
        *("instructions", "max_output_tokens", "metadata", "parallel_tool_calls", "previous_response_id", "reasoning"),
        *("store", "temperature", "text", "tool_choice", "tools", "top_p", "truncation"),
    }
)
_NO_USAGE = {
    "input_tokens": 0,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens": 0,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 0,
}


class WarmUpAnswer:
    """Two events of a response without output. It has no id at the upstream."""

    headers: Mapping[str, str] = {"content-type": "text/event-stream"}

    def __init__(self, request: RelayRequest) -> None:
        self._request = request
        self.outcome = RelayOutcome(
            model=request.model, usage=Usage(0, 0), finish_reason="stop", next_sequence_number=2
        )

    async def __aiter__(self) -> AsyncIterator[bytes]:
        response: dict[str, Any] = {
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            **{name: value for name, value in self._request.fields.items() if name in _ECHOED},
            "id": new_id("resp", "_"),
            "object": "response",
            "created_at": int(time.time()),
            "model": self._request.model,
            "output": [],
        }
        for number, (kind, status, usage) in enumerate(
            (("created", "in_progress", None), ("completed", "completed", _NO_USAGE))
        ):
            event = {
                "type": f"response.{kind}",
                "sequence_number": number,
                "response": {**response, "status": status, "usage": usage},
            }
            yield b"data: " + msgspec.json.encode(event) + b"\n\n"

    async def aclose(self) -> None:
        """Nothing is open."""
