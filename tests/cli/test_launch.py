"""``antiphon launch``: a profile next to the user's own settings, and a tool that is started with it."""

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Generator
from pathlib import Path

import pytest
from tests.serving import Running, running

from antiphon.backends.scripted.backend import ScriptedBackend
from antiphon.backends.scripted.script import Script
from antiphon.cli.launch import TOOLS
from antiphon.cli.profile_file import ProfileFile
from antiphon.errors import AntiphonError

FAKE = """#!{python}
import json, os, sys
names = ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_API_BASE", "OPENCODE_CONFIG_CONTENT")
print(json.dumps({{"arguments": sys.argv[1:], "environ": {{name: os.environ.get(name) for name in names}}}}))
sys.exit(7)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Running]:
    with running(ScriptedBackend(Script(models=("gpt-5", "gpt-4o-mini"))), tmp_path_factory.mktemp("home")) as up:
        yield up


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A user's home, with every tool as a program that says how it was started and exits with 7."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for tool in TOOLS.values():
        program = programs / tool.program
        program.write_text(FAKE.format(python=sys.executable))
        program.chmod(0o755)
    return tmp_path


def launch(home: Path, server: Running, *words: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OPENAI_", "ANTIPHON_", "CODEX_"))}
    environment |= {"HOME": str(home), "PATH": f"{home / 'bin'}:{os.environ['PATH']}", "OPENAI_API_KEY": "sk-mine"}
    return subprocess.run(
        [sys.executable, "-m", "antiphon", "launch", *words, "--base-url", server.url],
        env=environment | environ,
        capture_output=True,
        text=True,
        check=False,
    )


def profile(home: Path) -> Path:
    return home / ".codex" / "antiphon.config.toml"


def test_codex_is_started_with_a_profile(home: Path, server: Running) -> None:
    """The profile points at the server; the tool gets its arguments, the key, and decides the exit status."""
    done = launch(home, server, "codex", "exec", "--json", "hello there")
    assert done.returncode == 7, done.stderr
    said = json.loads(done.stdout)
    assert said["arguments"] == ["--profile", "antiphon", "exec", "--json", "hello there"]
    assert said["environ"]["OPENAI_API_KEY"] == "sk-mine"
    written = tomllib.loads(profile(home).read_text())
    provider = written["model_providers"][written["model_provider"]]
    assert (written["model"], provider["base_url"], provider["wire_api"]) == ("gpt-5", server.url, "responses")
    assert provider["env_key"] == "OPENAI_API_KEY"
    assert provider["http_headers"] == {"x-antiphon-hosted-tools": "leave-out"}
    assert provider["supports_websockets"] is True
    assert "sk-mine" not in profile(home).read_text()


def test_undo_removes_what_was_written_and_nothing_else(home: Path, server: Running) -> None:
    """The user's settings stay as they are; a second undo finds nothing."""
    own = home / ".codex" / "config.toml"
    own.parent.mkdir()
    own.write_text("model = 'mine'\n")
    assert launch(home, server, "codex").returncode == 7
    done = launch(home, server, "codex", "--undo")
    assert (done.returncode, "removed" in done.stdout) == (0, True)
    assert [path.name for path in own.parent.iterdir()] == ["config.toml"]
    assert own.read_text() == "model = 'mine'\n"
    assert "nothing to remove" in launch(home, server, "codex", "--undo").stdout


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("llm", ["--model", "gpt-4o-mini", "hi"]),
        ("aider", ["--model", "openai/gpt-4o-mini", "hi"]),
        ("opencode", ["hi"]),
    ],
)
def test_tools_without_a_profile_get_their_environment(
    home: Path, server: Running, tool: str, arguments: list[str]
) -> None:
    """They need no file, and undo says so."""
    said = json.loads(launch(home, server, tool, "hi").stdout)
    assert said["arguments"] == arguments
    assert said["environ"]["OPENAI_BASE_URL"] == said["environ"]["OPENAI_API_BASE"] == server.url
    if tool == "opencode":
        settings = json.loads(said["environ"]["OPENCODE_CONFIG_CONTENT"])
        assert settings["model"] == "antiphon/gpt-4o-mini"
        assert settings["provider"]["antiphon"]["options"]["baseURL"] == server.url
    assert "nothing to remove" in launch(home, server, tool, "--undo").stdout
    assert sorted(path.name for path in home.iterdir()) == ["bin"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("vim",), "one of: codex, llm, aider, opencode"),
        (("codex", "--model", "nope"), "name one with --model: gpt-5, gpt-4o-mini"),
    ],
)
def test_what_cannot_be_launched_writes_nothing(home: Path, server: Running, words: tuple[str, ...], said: str) -> None:
    """One line with what to do instead."""
    done = launch(home, server, *words)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert said in done.stderr
    assert not profile(home).exists()


def test_a_tool_that_is_not_installed_is_named_with_its_installation(home: Path, server: Running) -> None:
    """The hint is the command that installs it."""
    (home / "bin" / "codex").unlink()
    done = launch(home, server, "codex", PATH=str(home / "bin"))
    assert "npm install --global @openai/codex" in done.stderr


def test_a_file_of_the_user_is_kept_and_put_back(tmp_path: Path) -> None:
    """A file of the same name that the user wrote comes back byte for byte; one of ours that was changed stays."""
    file = ProfileFile(tmp_path / "deep" / "x.toml", "antiphon launch x")
    file.write("a = 1\n")
    file.write("a = 2\n")
    assert tomllib.loads(file.path.read_text()) == {"a": 2}
    file.undo()
    file.path.write_text("mine = 1\n")
    file.write("a = 3\n")
    assert "put back" in file.undo()
    assert file.path.read_text() == "mine = 1\n"
    file.path.unlink()
    file.write("a = 4\n")
    file.path.write_text(file.path.read_text() + "b = 5\n")
    assert "stays" in file.undo()
    assert "b = 5" in file.path.read_text()
    file.write("a = 6\n")
    file.path.write_text(file.path.read_text() + "b = 7\n")
    with pytest.raises(AntiphonError, match="has an earlier file of yours"):
        file.write("a = 8\n")
    assert "b = 7" in file.path.read_text()
