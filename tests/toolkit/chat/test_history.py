"""A conversation as a value."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.toolkit.scripted_endpoint import Endpoint

from antiphon.toolkit.chat.chat import Chat
from antiphon.toolkit.chat.history import History, Turn, read_chat, write_chat
from antiphon.toolkit.errors import HistoryError

CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}


def said(user: str, assistant: str, *, pinned: bool = False) -> Turn:
    return Turn(({"role": "user", "content": user}, {"role": "assistant", "content": assistant}), pinned)


def with_tool() -> Turn:
    return Turn(
        (
            {"role": "user", "content": "go"},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c1", "content": "done"},
            {"role": "assistant", "content": "it is done"},
        )
    )


@pytest.mark.parametrize(
    "messages",
    [
        ({"role": "assistant", "content": None, "tool_calls": [CALL]},),
        ({"role": "tool", "tool_call_id": "c1", "content": "done"},),
        (
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c1", "content": "a"},
            {"role": "tool", "tool_call_id": "c1", "content": "b"},
        ),
    ],
)
def test_a_turn_must_answer_each_of_its_calls_once(messages: tuple[dict[str, Any], ...]) -> None:
    """A call without its result, or a result without its call, cannot be made."""
    with pytest.raises(HistoryError, match="c1"):
        Turn(messages)


def test_pinned_turns_are_sent_at_their_place_when_others_are_left_out() -> None:
    """The start moves past them, and they stay."""
    history = History("sys", (said("a", "b", pinned=True), said("c", "d"), said("e", "f")), start=2)
    assert [message["content"] for message in history.messages()] == ["sys", "a", "b", "e", "f"]


def test_a_summary_stands_with_the_system_prompt() -> None:
    """There is one system message, first, as every chat template takes it."""
    sent = History("sys", summary="they met").messages()
    assert sent == [{"role": "system", "content": "sys\n\nSummary of the earlier conversation:\nthey met"}]
    assert History(summary="they met").messages()[0]["role"] == "system"
    assert History().messages() == []


def test_a_reminder_follows_every_message_of_the_user() -> None:
    """Texts and lists of parts alike, so that what was sent stays a prefix of what is sent next."""
    parts = Turn(({"role": "user", "content": [{"type": "text", "text": "x"}]}, {"role": "assistant", "content": "y"}))
    history = History("sys", (said("a", "b"), parts), reminder="(short)")
    sent = history.messages([{"role": "user", "content": "z"}])
    assert [message["content"] for message in sent] == [
        "sys",
        "a\n\n(short)",
        "b",
        [{"type": "text", "text": "x"}, {"type": "text", "text": "(short)"}],
        "y",
        "z\n\n(short)",
    ]


def test_undo_takes_the_last_turn_and_not_what_was_left_out() -> None:
    """What is no longer sent cannot be undone."""
    history = History(turns=(said("a", "b"), said("c", "d")))
    assert history.undo().turns == (said("a", "b"),)
    with pytest.raises(HistoryError):
        History(turns=(said("a", "b"),), start=1).undo()


def test_a_saved_chat_is_read_back_as_it_was(tmp_path: Path) -> None:
    """Turns, pins, what is left out, summary and reminder."""
    history = History("sys", (said("ä", "b", pinned=True), with_tool()), start=1, summary="s", reminder="r")
    path = tmp_path / "chat.json"
    write_chat(path, history.to_json())
    assert History.from_json(read_chat(path)) == history


@pytest.mark.parametrize("text", ["", "[1]", '{"format": "other/9"}', '{"format": "antiphon-chat/1"}'])
def test_another_file_is_not_taken_for_a_chat(tmp_path: Path, text: str) -> None:
    """It is refused, naming what is wrong."""
    path = tmp_path / "chat.json"
    path.write_text(text)
    with pytest.raises(HistoryError):
        History.from_json(read_chat(path))


def test_markdown_has_everything_that_was_said() -> None:
    """Also calls of tools, images, refusals and turns that are no longer sent."""
    image = [{"type": "image_url", "image_url": {"url": "data:,"}}]
    refused = Turn(({"role": "user", "content": image}, {"role": "assistant", "content": None, "refusal": "never"}))
    text = History("sys", (with_tool(), refused), start=1).markdown()
    assert text.startswith('## System\n\nsys\n\n## User\n\ngo\n\n## Assistant\n\n`f({"a": 1})`\n\n## Tool\n\ndone')
    assert "*(image)*" in text
    assert "*(refusal)* never" in text


@pytest.mark.parametrize(
    ("frame", "sent"),
    [
        ("Answer in French.", "Answer in French.\n\nYou are a cook.\n\nYou like soup.\n\nAnswer in French."),
        (True, "You are a cook.\n\nYou like soup.\n\nYou are a cook."),
        (False, "You are a cook.\n\nYou like soup."),
    ],
)
def test_key_instructions_stand_at_both_ends_of_the_system_prompt(
    endpoint: Endpoint, frame: bool | str, sent: str, tmp_path: Path
) -> None:
    """Also behind a summary, and after saving; what was written stays as it was."""
    chat = Chat("You are a cook.\n\nYou like soup.", client=endpoint.client(), context_tokens=1000, frame=frame)
    chat.send("hi")
    assert endpoint.requests[0]["messages"][0] == {"role": "system", "content": sent}
    chat.save(tmp_path / "chat.json")
    loaded = Chat.load(tmp_path / "chat.json", client=endpoint.client(), context_tokens=1000)
    assert loaded.messages == chat.messages
    assert chat.to_markdown().startswith("## System\n\nYou are a cook.\n\nYou like soup.\n\n##")
    with_summary = replace(loaded._history, summary="s").messages()[0]["content"]
    assert with_summary.endswith(sent.rsplit("\n\n", maxsplit=1)[-1] if frame else "s")
