"""What ``on_event`` is told: everything that happens to an exchange, in order, by every method."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from tests.toolkit.model_endpoints import ReasoningEndpoint
from tests.toolkit.scripted_endpoint import Endpoint, answer, error

from antiphon import (
    CallEnded,
    Chat,
    ChatEvent,
    FailedOver,
    HistoryPolicy,
    HistoryTrimmed,
    Replied,
    RequestRetried,
    RequestSent,
    ResponseCache,
    RetryPolicy,
    TextDelta,
    ToolFinished,
    extract,
)
from antiphon.toolkit.calls.forms import FORMS

ADD = answer(None, calls=[("c1", "add", '{"a": 1, "b": 2}')])


class Number(BaseModel):
    n: int


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def names(events: list[ChatEvent]) -> list[str]:
    """Return the kinds of events; pieces that follow each other count once."""
    found = [type(event).__name__ for event in events]
    return [name for at, name in enumerate(found) if at == 0 or name != "TextDelta" or found[at - 1] != name]


ROUND = ["RequestSent", "CallEnded", "ToolStarted", "ToolFinished", "RequestSent"]
WAYS: dict[str, tuple[Callable[[Chat], object], list[str]]] = {
    "send": (lambda chat: chat.send("1+2?"), [*ROUND, "CallEnded", "Replied"]),
    "parse": (lambda chat: chat.parse(Number, "1+2?"), [*ROUND, "CallEnded", "Replied"]),
    "stream": (lambda chat: list(chat.stream("1+2?")), [*ROUND, "TextDelta", "CallEnded", "Replied"]),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_method_tells_the_same_story(endpoint: Endpoint, way: str) -> None:
    """Request, answer, tools, and the reply at the end."""
    events: list[ChatEvent] = []
    endpoint.replies = [ADD, answer('{"n": 3}')]
    use, expected = WAYS[way]
    use(Chat(client=endpoint.client(), tools=[add], on_event=events.append))
    assert names(events) == expected
    sent = [event for event in events if isinstance(event, RequestSent)]
    assert [event.request["messages"][-1]["role"] for event in sent] == ["user", "tool"]
    assert [(event.path, event.attempt) for event in sent] == [("/chat/completions", 1)] * 2
    assert [event.result.value for event in events if isinstance(event, ToolFinished)] == [3]
    assert isinstance(events[-1], Replied)
    assert events[-1].reply.text == '{"n": 3}'
    records = [event.record for event in events if isinstance(event, CallEnded)]
    assert tuple(records) == events[-1].reply.records


def test_trouble_is_told_before_it_is_waited_for(endpoint: Endpoint) -> None:
    """Each retry with its reason, then the model that is asked in place of the first."""
    events: list[ChatEvent] = []
    endpoint.replies = [error(503), error(503), answer("ok")]
    retry = RetryPolicy(attempts=2, initial_s=0.001, jitter=0)
    chat = Chat(client=endpoint.client(), retry=retry, fallbacks=["other"], on_event=events.append)
    assert chat.send("x").text == "ok"
    expected = ["RequestSent", "RequestRetried", "RequestSent", "FailedOver", "RequestSent", "CallEnded", "Replied"]
    assert names(events) == expected
    retried, failed_over = events[1], events[3]
    assert isinstance(retried, RequestRetried)
    assert isinstance(failed_over, FailedOver)
    assert (retried.reason, retried.wait_s) == ("503", 0.001)
    assert (failed_over.model, failed_over.next_model) == ("gpt-4o-mini", "other")
    assert [(e.model, e.attempt) for e in events if isinstance(e, RequestSent)] == [
        ("gpt-4o-mini", 1),
        ("gpt-4o-mini", 2),
        ("other", 1),
    ]


def test_a_form_that_is_refused_is_sent_again_in_another() -> None:
    """The events show what was sent, not what was asked for."""
    FORMS.forget()
    events: list[ChatEvent] = []
    Chat(client=ReasoningEndpoint().client(), model="m", prefer={"temperature": 0}, on_event=events.append).send("x")
    sent = [("temperature" in event.request, event.attempt) for event in events if isinstance(event, RequestSent)]
    assert sent == [(True, 1), (False, 2)]
    FORMS.forget()


def test_answers_from_the_cache_and_trims_are_told(endpoint: Endpoint, tmp_path: Path) -> None:
    """Nothing was sent for the one; the other says what was left out."""
    events: list[ChatEvent] = []
    with ResponseCache(tmp_path / "c.sqlite") as cache:
        for _ in range(2):
            Chat(client=endpoint.client(), temperature=0, cache=cache, on_event=events.append).send("x")
    assert names(events) == ["RequestSent", "CallEnded", "Replied", "CallEnded", "Replied"]
    events.clear()
    chat = Chat(client=endpoint.client(), history=HistoryPolicy(max_tokens=60), on_event=events.append)
    chat.remember("long " * 40, "longer " * 40, pin=False)
    chat.send("short")
    assert names(events) == ["HistoryTrimmed", "RequestSent", "CallEnded", "Replied"]
    assert isinstance(events[0], HistoryTrimmed)
    assert len(events[0].report.dropped) == 1


@pytest.mark.parametrize("kind", [RequestSent, CallEnded, TextDelta, Replied])
def test_what_a_listener_raises_ends_the_call(endpoint: Endpoint, kind: type[Any]) -> None:
    """The caller gets it, and the conversation is as it was."""

    def listen(event: ChatEvent) -> None:
        if type(event) is kind:
            raise LookupError("the listener")

    chat = Chat(client=endpoint.client(), on_event=listen)
    with pytest.raises(LookupError, match="the listener"):
        list(chat.stream("x"))
    assert chat.turns == ()


def test_what_takes_the_options_of_a_chat_tells_it_too(endpoint: Endpoint) -> None:
    """An answer that does not validate, for one."""
    events: list[ChatEvent] = []
    endpoint.replies = [answer('{"n": "x"}'), answer('{"n": 1}')]
    extract(Number, "one", client=endpoint.client(), on_event=events.append)
    expected = ["RequestSent", "CallEnded", "AnswerRejected", "RequestSent", "CallEnded", "Replied"]
    assert names(events) == expected
