"""Recorded answers: what is on the tape, and what a changed request sees."""

import json
from pathlib import Path

import httpx2
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from tests.serving import running

import antiphon
from antiphon.backends.scripted.backend import ScriptedBackend
from antiphon.backends.scripted.script import Script
from antiphon.testing import Tape, UnexpectedRequestError
from antiphon.testing.tape import TapeError

KEY = "sk-secret-0123456789"


def ask(client: OpenAI, text: str = "grüße aus Köln", *, stream: bool = False) -> str:
    messages = [{"role": "user", "content": text}]
    made = client.chat.completions.create(model="gpt-4o-mini", messages=messages, stream=stream)
    return (
        "".join(chunk.choices[0].delta.content or "" for chunk in made) if stream else made.choices[0].message.content
    )


@pytest.fixture
def tape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tape:
    """A tape of one answer, one stream and one answer to the asynchronous client, from a real server."""
    tape = Tape(tmp_path / "tapes" / "tape.json")
    with running(ScriptedBackend(Script(models=("gpt-4o-mini",))), tmp_path / "home") as server, tape.recording():
        monkeypatch.setenv("OPENAI_BASE_URL", server.url.replace("http://", "http://user:password@"))
        client = OpenAI(base_url=server.url, api_key=KEY)
        assert ask(client) == "grüße aus Köln"
        assert ask(client, stream=True) == "grüße aus Köln"
        assert ask(client, f"my key is {KEY}") == f"my key is {KEY}"
    tape.write()
    return tape


def test_nothing_secret_is_on_the_tape(tape: Tape) -> None:
    """Neither the key, wherever it stood, nor the request's headers, nor the credentials of the URL."""
    written = tape.path.read_text()
    assert KEY not in written
    assert "my key is [key]" in written
    assert "password" not in written
    assert "authorization" not in written.lower()
    assert set(json.loads(written)["exchanges"][0]["answer"]["headers"]) <= {
        "content-type",
        "x-request-id",
        "openai-processing-ms",
        "openai-version",
    }


def test_a_tape_plays_without_a_server(tape: Tape) -> None:
    """Streams come in the pieces in which they were recorded; each recording is used once."""
    pieces = json.loads(tape.path.read_text())["exchanges"][1]["answer"]["pieces"]
    assert len(pieces) > 1
    client = OpenAI(base_url="http://127.0.0.1:9/v1", api_key="another", max_retries=3)
    with tape.playing():
        assert ask(client, stream=True) == "grüße aus Köln"
        assert ask(client) == "grüße aus Köln"
        with pytest.raises(UnexpectedRequestError, match="more than the 1 times"):
            ask(client)


@pytest.mark.anyio
async def test_the_other_client_plays_it_too(tape: Tape) -> None:
    """A tape that one client made answers another's equal request."""
    with tape.playing():
        async with AsyncOpenAI(base_url="http://127.0.0.1:9/v1", api_key="another") as client:
            made = await client.chat.completions.create(
                messages=[{"content": "grüße aus Köln", "role": "user"}], model="gpt-4o-mini", stream=False
            )
    assert made.choices[0].message.content == "grüße aus Köln"


def test_a_connection_that_failed_fails_again(tmp_path: Path) -> None:
    """In the same way: what an application does without a server is part of its recording."""
    tape = Tape(tmp_path / "tape.json")
    client = OpenAI(base_url="http://127.0.0.1:9/v1", api_key="any", max_retries=0)
    for way in (tape.recording, tape.playing):
        with way(), pytest.raises(openai.APIConnectionError) as raised:
            ask(client)
        assert isinstance(raised.value.__cause__, httpx2.ConnectError)
        if way == tape.recording:
            tape.write()


def test_a_changed_request_fails_with_the_difference(tape: Tape) -> None:
    """The message shows the lines that changed, against the nearest recording that was not used."""
    client = OpenAI(api_key="another")
    with tape.playing(), pytest.raises(UnexpectedRequestError) as raised:
        ask(client, "grüße aus Bonn")
    told = str(raised.value)
    assert '-   "content": "grüße aus Köln",' in told
    assert '+   "content": "grüße aus Bonn",' in told
    assert "--record" in told
    with tape.playing(), pytest.raises(UnexpectedRequestError, match="GET /v1/models was not recorded"):
        client.models.list()


def test_a_file_that_is_no_tape_says_how_to_record_one(tmp_path: Path) -> None:
    """Missing, damaged, or of another version."""
    (tmp_path / "damaged.json").write_text("{")
    (tmp_path / "other.json").write_text('{"format": "other/9"}')
    for name, told in (("missing.json", "no tape"), ("damaged.json", "not a tape"), ("other.json", "other/9")):
        with pytest.raises(TapeError, match=told), Tape(tmp_path / name).playing():
            pass


MODULE = """
import pytest
from openai import OpenAI

def ask(text):
    messages = [{"role": "user", "content": text}]
    return OpenAI(max_retries=0).chat.completions.create(model="gpt-4o-mini", messages=messages)

@pytest.mark.recorded
@pytest.mark.parametrize("text", ["one two", "a/b"])
def test_recorded(text):
    assert ask(text).choices[0].message.content == text

@pytest.mark.recorded("shared.json")
def test_that_catches_everything():
    try:
        ask("{prompt}")
    except BaseException:
        pass

def test_scripted(scripted):
    scripted.answers("ok")
    assert ask("hi").choices[0].message.content == "ok"
"""


def test_the_plugin_records_and_plays(
    pytester: pytest.Pytester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ``--record`` tapes are written next to the module; without it nothing is sent, and no key is needed."""
    plugin = ("-p", "antiphon.testing.plugin", "-q")
    pytester.makepyfile(test_application=MODULE.replace("{prompt}", "first"))
    with running(ScriptedBackend(Script(models=("gpt-4o-mini",))), tmp_path / "home") as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        pytester.runpytest_inprocess(*plugin, "--record").assert_outcomes(passed=4)
    tapes = {str(path.relative_to(pytester.path)) for path in pytester.path.rglob("*.json")}
    folder = "tapes/test_application"
    assert tapes == {
        f"{folder}/test_recorded-one-two.json",
        f"{folder}/test_recorded-a-b.json",
        "shared.json",
    }
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.delenv("OPENAI_BASE_URL")
    pytester.runpytest_inprocess(*plugin).assert_outcomes(passed=4)
    pytester.makepyfile(test_application=MODULE.replace("{prompt}", "second"))
    changed = pytester.runpytest_inprocess(*plugin)
    changed.assert_outcomes(passed=4, errors=1)
    changed.stdout.fnmatch_lines(["*+*second*"])
    (pytester.path / "shared.json").unlink()
    missing = pytester.runpytest_inprocess(*plugin)
    missing.assert_outcomes(passed=3, errors=1)
    missing.stdout.fnmatch_lines(["*There is no tape*"])


def test_a_test_that_fails_leaves_its_tape_alone(pytester: pytest.Pytester, tmp_path: Path) -> None:
    """What came after the failure would be missing from the new one."""
    pytester.makepyfile("import pytest\n@pytest.mark.recorded('t.json')\ndef test_it():\n    assert False")
    (pytester.path / "t.json").write_text("old")
    pytester.runpytest_inprocess("-p", "antiphon.testing.plugin", "--record").assert_outcomes(failed=1)
    assert (pytester.path / "t.json").read_text() == "old"


def test_the_plugin_costs_a_test_run_nothing(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is loaded wherever this package is installed, so it imports neither the client nor the rest of itself."""
    monkeypatch.setenv("PYTHONPATH", str(Path(antiphon.__file__).parents[1]))
    pytester.makepyfile(
        "import sys\ndef test_it():\n    assert not [m for m in sys.modules if m.startswith(('openai', 'antiphon.back'))]"
    )
    pytester.runpytest_subprocess("-p", "antiphon.testing.plugin").assert_outcomes(passed=1)
