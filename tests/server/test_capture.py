"""The ring of captured requests: bounded by bytes, age and number."""

import time
from typing import Any

import pytest
from tests.waiting import until

from antiphon.server.request.call import Call
from antiphon.server.request.capture import CaptureRing
from antiphon.server.request.headers import StandardHeaders
from antiphon.server.request.origin_check import OriginCheck

pytestmark = pytest.mark.anyio


async def nothing(*_: Any) -> Any:
    raise AssertionError("nothing is received or sent")


def a_call(body: bytes, ring: CaptureRing, **headers: str) -> Call:
    scope = {
        "path": "/v1/chat/completions",
        "method": "POST",
        "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
    }
    call = Call(StandardHeaders("org", OriginCheck(host="127.0.0.1")), scope, nothing, nothing)
    ring.begin(call)
    assert call.trace.contents is not None
    call.trace.contents.set_request(body)
    return call


async def test_the_oldest_goes_when_the_memory_is_full() -> None:
    """The sum of all contents stays within the bound, whatever the requests are."""
    ring = CaptureRing(8000, 60)
    calls = [a_call(b"x" * 700, ring) for _ in range(30)]
    assert ring.num_bytes <= 8000
    assert ring.find(calls[0].request_id) is None
    assert ring.find(calls[-1].request_id) is not None


async def test_one_request_has_an_eighth_at_most() -> None:
    """A huge request does not push out all others: each of its parts is cut."""
    ring = CaptureRing(8000, 60)
    captured = ring.find(a_call(b"x" * 5000, ring).request_id)
    assert captured is not None
    assert len(captured.contents.request) == 1000
    assert captured.contents.is_cut


async def test_contents_end_with_their_age() -> None:
    """Nothing is found that is older than it may be."""
    now = 0.0
    ring = CaptureRing(8000, 60, clock=lambda: now)
    call = a_call(b"x", ring)
    now = 59
    assert ring.find(call.request_id) is not None
    now = 61
    assert ring.find(call.request_id) is None
    assert (len(ring), ring.num_bytes) == (0, 0)


async def test_old_contents_leave_the_memory_by_themselves() -> None:
    """Without a further request, a timer drops what is too old."""
    ring = CaptureRing(8000, 0.02, clock=time.monotonic)
    call = a_call(b"x" * 100, ring)
    contents = call.trace.contents
    assert contents is not None
    await until(lambda: ring._total.count == 0)


async def test_no_header_with_a_key_is_kept() -> None:
    """Of the headers, those stay that say which client it was."""
    ring = CaptureRing(8000, 60)
    call = a_call(b"x", ring, authorization="Bearer sk-secret", cookie="a=b", user_agent="curl")
    captured = ring.find(call.request_id)
    assert captured is not None
    assert captured.headers == {"user-agent": "curl"}
