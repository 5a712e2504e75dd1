"""Pictures, sound and files in a message."""

import base64
from pathlib import Path
from typing import Any

import pytest
from tests.toolkit.model_endpoints import ReasoningEndpoint
from tests.toolkit.scripted_endpoint import Endpoint

from antiphon import Chat, File, HistoryError, Image, Sound
from antiphon.toolkit.chat import attachments

PNG = b"\x89PNG\r\n\x1a\n...."
WAV = b"RIFF\x00\x00\x00\x00WAVE"


def data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def sent(endpoint: Endpoint, *parts: Any) -> list[dict[str, Any]]:
    Chat(client=endpoint.client(), context_tokens=10_000).send(["What is this?", *parts])
    first, *others = endpoint.requests[-1]["messages"][0]["content"]
    assert first == {"type": "text", "text": "What is this?"}
    return others


def test_a_picture_is_read_from_a_path_from_bytes_or_by_the_server(endpoint: Endpoint, tmp_path: Path) -> None:
    """What kind it is, its first bytes say, whatever the file is called."""
    (tmp_path / "chart.jpg").write_bytes(PNG)
    address = "https://example.com/chart.png"
    parts = sent(endpoint, Image(tmp_path / "chart.jpg"), Image(PNG, detail="low"), Image(address))
    assert [part["image_url"] for part in parts] == [
        {"url": data("image/png", PNG), "detail": "auto"},
        {"url": data("image/png", PNG), "detail": "low"},
        {"url": address, "detail": "auto"},
    ]


def test_sound_and_files_have_the_form_of_the_api(endpoint: Endpoint, tmp_path: Path) -> None:
    """And parts that are in it already go out unchanged."""
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    own = {"type": "text", "text": "own"}
    parts = sent(endpoint, Sound(WAV), Sound(b"ID3", name="a.mp3"), File(str(tmp_path / "a.pdf")), own)
    assert parts == [
        {"type": "input_audio", "input_audio": {"data": base64.b64encode(WAV).decode(), "format": "wav"}},
        {"type": "input_audio", "input_audio": {"data": base64.b64encode(b"ID3").decode(), "format": "mp3"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": data("application/pdf", b"%PDF")}},
        own,
    ]


@pytest.mark.parametrize(
    ("attachment", "why"),
    [
        (Image(b"text"), "is not a picture"),
        (Image("missing.png"), "'missing.png' cannot be read: No such file"),
        (Sound(b"text", name="a.txt"), "is neither WAV nor MP3"),
        (File(b"text"), "has no name"),
        (File(b"0123456789", name="a.bin"), "larger than"),
    ],
)
def test_what_no_model_could_read_is_refused_before_anything_is_sent(
    endpoint: Endpoint, attachment: Any, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The conversation stays as it was."""
    monkeypatch.setattr(attachments, "_MAX_BYTES", 9)
    chat = Chat(client=endpoint.client(), context_tokens=10_000)
    with pytest.raises(HistoryError, match=why):
        chat.send(["What is this?", attachment])
    assert endpoint.requests == []
    assert chat.turns == ()


def test_attachments_go_to_responses_in_their_form(endpoint: Endpoint, tmp_path: Path) -> None:
    """And are kept when the conversation is saved."""
    server = ReasoningEndpoint("https://api.openai.com/v1")
    chat = Chat(client=server.client(), model="gpt-5-mini", context_tokens=10_000)
    chat.send(["What is this?", Image(PNG), File(b"%PDF", name="a.pdf")])
    chat.save(tmp_path / "chat.json")
    Chat.load(tmp_path / "chat.json", client=server.client(), context_tokens=10_000).send("and?")
    for request in server.sent("/responses"):
        assert request["input"][0]["content"] == [
            {"type": "input_text", "text": "What is this?"},
            {"type": "input_image", "image_url": data("image/png", PNG), "detail": "auto"},
            {"type": "input_file", "filename": "a.pdf", "file_data": data("application/pdf", b"%PDF")},
        ]
    assert "*(image)*\n\n*(file)*" in chat.to_markdown()
