"""The requests that are in flight, for the console."""

from collections.abc import Iterator
from typing import Protocol

from antiphon.protocol.events import Meter
from antiphon.server.request.call import Call


class LiveRequest(Protocol):
    """What is known of a request while it runs."""

    meter: Meter
    model: str | None
    first_token_s: float | None


class LiveRequests:
    """Knows every admitted request until it is settled; by request id, oldest first."""

    def __init__(self) -> None:
        self._live: dict[str, tuple[Call, LiveRequest]] = {}

    def begin(self, call: Call, request: LiveRequest) -> None:
        """Take a request in."""
        self._live[call.request_id] = call, request

    def end(self, call: Call) -> None:
        """Forget a request; also one that was never taken in."""
        self._live.pop(call.request_id, None)

    def find(self, request_id: str) -> tuple[Call, LiveRequest] | None:
        """Return a request that is in flight."""
        return self._live.get(request_id)

    def __len__(self) -> int:
        return len(self._live)

    def __iter__(self) -> Iterator[tuple[Call, LiveRequest]]:
        return iter(self._live.values())
