"""What a request carries besides its body."""

from typing import Any, cast

from antiphon.server.request.call import Call
from antiphon.server.request.query import note_client_id


def test_the_clients_own_request_id_is_noted_for_the_log() -> None:
    """The log line of a request has the id that its client gave it."""
    call = Call(
        cast("Any", None), {"headers": [(b"x-client-request-id", b"mine-1")]}, cast("Any", None), cast("Any", None)
    )
    note_client_id(call)
    assert call.note == {"client_request_id": "mine-1"}
