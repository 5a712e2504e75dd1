"""The tour: one page, walked by the command, read in the docs."""

from __future__ import annotations

import json
from collections.abc import Generator
from importlib.resources import files
from pathlib import Path

import pytest
from tests.serving import Running, running

from antiphon.backends.scripted.backend import ScriptedBackend
from antiphon.backends.scripted.script import Script
from antiphon.cli.root import main
from antiphon.cli.tour import read_steps

DOCS_PAGE = Path(__file__).parents[2] / "docs" / "tour.md"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Running]:
    script = Script(models=("gpt-4o-mini",), embedding_models=("text-embedding-3-small",))
    with running(ScriptedBackend(script), tmp_path_factory.mktemp("home")) as up:
        yield up


def walk(server: Running, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    with pytest.raises(SystemExit) as ended:
        main(["tour", *words])
    return int(ended.value.code or 0)


def test_the_page_in_the_docs_is_the_page_of_the_command() -> None:
    """What one reads is what one runs: cp src/antiphon/cli/tour.md docs/tour.md after a change."""
    assert DOCS_PAGE.read_text() == files("antiphon.cli").joinpath("tour.md").read_text()


def test_there_are_ten_whole_steps() -> None:
    """Each has a title, words before, code that compiles, and something to look at."""
    steps = read_steps()
    assert [step.number for step in steps] == list(range(1, 11))
    for step in steps:
        compile(step.code, step.title, "exec")
        assert step.about
        assert step.look_at.startswith("Look at")


def test_steps_run_and_show_their_output(
    server: Running, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As JSON each chosen step is a line with its code and what it printed; the steps before it run unseen."""
    assert walk(server, monkeypatch, "--json", "--steps", "2-4") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["step"] for line in lines] == [2, 3, 4]
    assert lines[0]["output"].startswith("Name three primary colors.\nstop")


def test_a_step_for_people(
    server: Running, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Code, output and what to look at, in this order."""
    assert walk(server, monkeypatch, "--steps", "1") == 0
    out = capsys.readouterr().out
    assert out.index("client.models.list()") < out.index("prints\ngpt-4o-mini") < out.index("Look at the names")


def test_without_a_server_the_tour_says_how_to_start_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line with the fix, before the first step."""
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(SystemExit):
        main(["tour", "--base-url", "http://127.0.0.1:9/v1"])
    assert "cannot reach" in capsys.readouterr().err


def test_a_step_that_is_none_is_refused(
    server: Running, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message names the range."""
    assert walk(server, monkeypatch, "--steps", "11") == 1
    assert "from 1 to 10" in capsys.readouterr().err
