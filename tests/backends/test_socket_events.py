"""What the ledger reads from the messages of an upstream's WebSocket."""

import pytest

from antiphon.backends.upstream.socket_events import read_event
from antiphon.protocol.forward import SocketEvent


@pytest.mark.parametrize(
    ("message", "event"),
    [
        ('{"type": "response.created", "response": {"id": "r"}}', SocketEvent("begun", object_id="r")),
        ('{"type": "response\\u002ecreated", "response": {"id": "r"}}', SocketEvent("begun", object_id="r")),
        ('{"type": "response.done", "response": {"id": "r", "status": "failed"}}',
         SocketEvent("ended", object_id="r", is_failed=True)),
        ('{"type": "response.completed", "response": {"id": [], "model": 1}}', SocketEvent("ended")),
        ('{"type": "error", "response": null}', SocketEvent("refused", is_failed=True)),
        ('{"type": "response.output_text.delta", "delta": "response.done"}', None),
        ('{"type": [], "word": "error"}', None),
        ('{"type": {}, "word": "response.done"}', None),
        ('{"type": null, "word": "error"}', None),
        ('{"type": "error", "response": 5}', None),
        ("[" * 100_000 + '"error"', None),
        ('"error"', None),
        ("", None),
        ("\x00\x01", None),
    ],
)  # fmt: skip
def test_a_message_says_what_became_of_a_response(message: str, event: SocketEvent | None) -> None:
    """As text and as bytes; a message that says nothing of one, or that cannot be read, is no event and no failure."""
    assert read_event(message) == event
    assert read_event(message.encode()) == event


def test_bytes_that_are_no_text_are_no_event() -> None:
    """Sound may come as it is."""
    assert read_event(b'\xff\xfe{"type": "error"}') is None
