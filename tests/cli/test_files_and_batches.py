"""``antiphon files`` and ``antiphon batches`` against a server."""

import json
from collections.abc import Generator
from pathlib import Path

import httpx2
import pytest
from tests.serving import Running, running
from tests.waiting import wait_until

from antiphon.backends.scripted.backend import ScriptedBackend
from antiphon.backends.scripted.script import Script
from antiphon.cli.root import main
from antiphon.testing import ScriptedEndpoint


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Running]:
    with running(ScriptedBackend(Script(models=("m",))), tmp_path / "home") as up:
        monkeypatch.setenv("OPENAI_BASE_URL", up.url)
        yield up


def run(capfd: pytest.CaptureFixture[str], *words: str, status: int = 0) -> str:
    """Run a command and return what it printed."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    said = capfd.readouterr()
    assert ended.value.code == status, said.err
    return said.out if status == 0 else said.err


@pytest.mark.usefixtures("server")
def test_a_file_is_uploaded_listed_fetched_and_deleted(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Its id is what upload prints; the content comes back as it was."""
    path = tmp_path / "notes.txt"
    path.write_bytes(b"a\x00b\n")
    file_id = run(capfd, "files", "upload", str(path)).strip()
    assert file_id.startswith("file-")
    assert "notes.txt" in run(capfd, "files", "list")
    assert json.loads(run(capfd, "files", "show", file_id))["bytes"] == 4
    run(capfd, "files", "download", file_id, "--output", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == b"a\x00b\n"
    run(capfd, "files", "delete", file_id)
    assert "No such File" in run(capfd, "files", "show", file_id, status=1)
    assert "there is no file" in run(capfd, "files", "upload", "nowhere", status=1)


@pytest.mark.usefixtures("server")
def test_every_file_is_listed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many pages they take."""
    monkeypatch.setattr("antiphon.cli.files._PAGE", 1)
    (tmp_path / "a.txt").write_text("a")
    ids = [run(capfd, "files", "upload", str(tmp_path / "a.txt")).strip() for _ in range(3)]
    listed = [json.loads(line)["id"] for line in run(capfd, "files", "list", "--json").splitlines()]
    assert sorted(listed) == sorted(ids)


def test_a_server_without_pages_is_asked_twice_at_most(
    scripted: ScriptedEndpoint, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gives all files each time, and does not say whether there are more."""
    monkeypatch.setenv("OPENAI_BASE_URL", "http://scripted.test/v1")
    file = {"id": "file-1", "object": "file", "filename": "a", "purpose": "batch", "created_at": 1, "bytes": 2}
    asked: list[int] = []

    def files(_: object) -> httpx2.Response:
        asked.append(1)
        return httpx2.Response(200, json={"object": "list", "data": [file]})

    scripted.routes["/v1/files"] = files
    assert run(capfd, "files", "list", "--json").count("file-1") == 1
    assert len(asked) == 2


@pytest.mark.usefixtures("server")
def test_a_batch_is_started_shown_and_fetched(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Its answers are lines of JSON; where nothing failed, there is no file of failures."""
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
    line = {"custom_id": "one", "method": "POST", "url": "/v1/chat/completions", "body": body}
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps(line))
    batch_id = run(capfd, "batches", "start", str(path)).strip()
    wait_until(lambda: json.loads(run(capfd, "batches", "show", batch_id))["status"] == "completed")
    assert batch_id in run(capfd, "batches", "list")
    assert json.loads(run(capfd, "batches", "download", batch_id))["custom_id"] == "one"
    assert "no file of failed requests" in run(capfd, "batches", "download", batch_id, "--errors", status=1)
    assert "Cannot cancel" in run(capfd, "batches", "cancel", batch_id, status=1)
