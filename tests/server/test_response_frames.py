"""How a response's frames are sent: one by one, or those of one event together."""

from collections.abc import AsyncGenerator
from typing import Any, cast

import pytest

from antiphon.protocol.events import ChoiceFinished, Completed, Event, Started, TextDelta, Usage
from antiphon.protocol.rendering import ResponseState, ResponseStream, response_stream
from antiphon.protocol.responses import parse_response
from antiphon.server.responses.answers import Answers
from antiphon.server.responses.turns import Turn

pytestmark = pytest.mark.anyio
REQUEST = parse_response({"model": "m", "input": "hi", "stream": True, "store": False})
EVENTS: list[Event] = [*(TextDelta(0, f" {n}") for n in range(5)), ChoiceFinished(0, "stop"), Completed(Usage(1, 5))]


async def test_frames_that_are_sent_together_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """One write for each event, since a write costs more than a frame; not a byte differs."""
    monkeypatch.setattr(response_stream.time, "time", lambda: 2.0)
    single, joined = await sent(joins=False), await sent(joins=True)
    assert b"".join(single) == b"".join(joined)
    assert len(single) == sum(map(frame_count, joined)) == 4 + 5 + 3 + 1
    assert [frame_count(chunk) for chunk in joined] == [2, 3, 1, 1, 1, 1, 3, 1]


def frame_count(chunk: bytes) -> int:
    return chunk.count(b"\n\n")


async def sent(*, joins: bool) -> list[bytes]:
    state = ResponseState("resp_1", 1.0, REQUEST, lambda said: said)
    turn = Turn(
        request=REQUEST,
        response_id="resp_1",
        account="a",
        chat=REQUEST.chat,
        history=(),
        items=(),
        shown=(),
        render=lambda _: (),
    )
    answers = Answers(cast("Any", None), cast("Any", None), cast("Any", None))
    return [
        chunk async for chunk in answers.frames(Started("m", 1), events(), ResponseStream(state), turn, joins=joins)
    ]


async def events() -> AsyncGenerator[Event]:
    for event in EVENTS:
        yield event
