"""Trimming."""

from collections.abc import Sequence
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.toolkit.chat.history import History, Turn
from antiphon.toolkit.chat.trim import HistoryPolicy, TrimReport, trim
from antiphon.toolkit.errors import HistoryError
from antiphon.toolkit.tokens.count import TokenCount
from antiphon.toolkit.tokens.text_estimate import message_texts


def weigh(messages: Sequence[Any]) -> int:
    # As heavy as a tokenizer that makes a token of every letter.
    return sum(4 + sum(map(len, message_texts(message))) for message in messages)


async def count(messages: Sequence[Any]) -> TokenCount:
    return TokenCount(weigh(messages), "exact", "test")


@st.composite
def turns(draw: st.DrawFn, name: str = "t") -> Turn:
    sizes = draw(st.lists(st.integers(0, 40), max_size=3))
    messages: list[dict[str, Any]] = [{"role": "user", "content": "u" * draw(st.integers(0, 60))}]
    for index, size in enumerate(sizes):
        call = {"id": f"{name}{index}", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
        messages.append({"role": "tool", "tool_call_id": f"{name}{index}", "content": "r" * size})
    messages.append({"role": "assistant", "content": "a" * draw(st.integers(0, 60))})
    return Turn(tuple(messages), draw(st.booleans()) and draw(st.booleans()))


@given(
    conversation=st.lists(turns(), max_size=14),
    system=st.one_of(st.none(), st.text("s", max_size=30)),
    budget=st.integers(20, 600),
    keep=st.floats(0.1, 1),
    reminder=st.one_of(st.none(), st.just("(brief)")),
)
def test_trimming_keeps_its_promises_over_a_whole_conversation(
    conversation: list[Turn], system: str | None, budget: int, keep: float, reminder: str | None
) -> None:
    """What is sent fits, splits no call from its result, keeps pins, and begins with what was sent before."""

    async def talk() -> None:
        history, sent_before = History(system, reminder=reminder), list[Any]()
        for turn in conversation:
            pending = turn.messages[:1]
            try:
                trimmed, report = await trim(history, pending, budget=budget, keep=keep, count=count)
            except HistoryError:
                floor = weigh(history.messages(pending, start=len(history.turns)))
                assert floor > budget
                return
            sent = trimmed.messages(pending)
            assert weigh(sent) <= budget
            called = [call["id"] for message in sent for call in message.get("tool_calls") or ()]
            answered = [message["tool_call_id"] for message in sent if message["role"] == "tool"]
            assert called == answered
            assert all(pinned in trimmed.sent_turns() for pinned in trimmed.turns if pinned.is_pinned)
            if report is None:
                assert trimmed.start == history.start
                assert sent[: len(sent_before)] == sent_before
            else:
                assert_report(report, history, trimmed, weigh(sent))
            history, sent_before = trimmed.append(turn), sent

    anyio.run(talk)


def assert_report(report: TrimReport, before: History, after: History, weight: int) -> None:
    assert report.tokens_after == weight < report.tokens_before
    assert report.tokens_before > report.budget
    assert len(report.dropped) == sum(not turn.is_pinned for turn in before.turns[before.start : after.start])


def test_a_trim_leaves_room_so_that_the_next_turns_need_none() -> None:
    """With keep=0.5 several turns pass between two trims."""

    async def talk() -> list[bool]:
        history, trims = History("s"), list[bool]()
        for number in range(30):
            pending = [{"role": "user", "content": f"{number:02}" * 10}]
            history, report = await trim(history, pending, budget=300, keep=0.5, count=count)
            trims.append(report is not None)
            history = history.append(Turn((*pending, {"role": "assistant", "content": "x" * 10})))
        return trims

    assert 3 <= sum(anyio.run(talk)) <= 8


def test_nothing_is_counted_while_a_conversation_certainly_fits() -> None:
    """A short conversation costs no question to a server's tokenizer."""

    async def refuse(messages: Sequence[Any]) -> TokenCount:
        raise AssertionError("counted")

    pending = [{"role": "user", "content": "hi"}]
    assert anyio.run(lambda: trim(History("s"), pending, budget=1000, keep=0.5, count=refuse))[1] is None


def test_what_cannot_fit_is_an_error_with_the_numbers() -> None:
    """System prompt, pinned turns and the message itself are never left out."""
    pending = [{"role": "user", "content": "x" * 500}]
    with pytest.raises(HistoryError, match=r"504 tokens remain .* 100 are allowed"):
        anyio.run(lambda: trim(History(), pending, budget=100, keep=0.5, count=count))


@pytest.mark.parametrize(
    ("policy", "context", "answer", "expected"),
    [
        (HistoryPolicy(), 8192, None, 8192 - 2048),
        (HistoryPolicy(), 128_000, None, 128_000 - 4096),
        (HistoryPolicy(), 8192, 100, 8092),
        (HistoryPolicy(answer_tokens=1000), 8192, 100, 7192),
        (HistoryPolicy(max_tokens=500), None, None, 500),
        (HistoryPolicy(), None, None, None),
    ],
)
def test_the_budget_is_the_context_less_the_answer(
    policy: HistoryPolicy, context: int | None, answer: int | None, expected: int | None
) -> None:
    """Unless the user sets it; unknown stays unknown."""
    assert policy.budget(context, answer) == expected


def test_an_answer_longer_than_the_context_is_refused() -> None:
    """No room would be left for a prompt."""
    with pytest.raises(HistoryError, match="context is 100 tokens"):
        HistoryPolicy().budget(100, 200)
    with pytest.raises(ValueError, match="keep"):
        HistoryPolicy(keep=0)
