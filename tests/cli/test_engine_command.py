"""`antiphon engine`: what is shown of the libraries here, and how a build that is not possible ends."""

import json
from pathlib import Path

import pytest
from tests.installed import HAS_LLAMA, needs_llama

from antiphon.cli import main
from antiphon.engine.model.native.find import ENVIRONMENT_VARIABLE, find_libraries
from antiphon.engine.model.native.selftest_model import TYPES


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ANTIPHON_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)
    return tmp_path / "home"


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["engine", *words])
    return int(caught.value.code or 0)


def test_show_lists_every_library_with_what_it_uses_and_what_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """As a table and as JSON; for each type of weights one library is chosen."""
    assert run("show", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["library"] == "auto"
    assert [row["path"] for row in shown["libraries"]] == [str(one.path) for one in find_libraries()]
    for row in shown["libraries"]:
        assert row["problem"] or (set(row["seconds"]) == set(TYPES) and row["instruction_sets"])
    assert sorted(name for row in shown["libraries"] for name in row["chosen_for"]) == sorted(
        TYPES if HAS_LLAMA else ()
    )
    assert run("show") == 0
    out = capsys.readouterr().out
    for row in shown["libraries"]:
        assert f"  {row['path']}" in out
        assert " ".join(row["instruction_sets"]) in out


def test_show_lists_what_was_measured_for_each_model(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    """The runtime and the weight format of a model that was served, with every figure; a damaged record is left out."""
    copies = home / "models" / ".layouts"
    copies.mkdir(parents=True)
    record = {"type": "f16", "runtime": "openvino", "reason": "as-is: 98 MB; f16 with OpenVINO: 2.5 times as fast"}
    (copies / "My.model-0123456789ab.prebuilt-0123456789ab.openvino-2026.4.1.json").write_text(json.dumps(record))
    (copies / "other-0123456789ab.prebuilt-0123456789ab.json").write_text("{")
    assert run("show", "--json") == 0
    (model,) = json.loads(capsys.readouterr().out)["models"]
    assert model == {
        "file": "My.model",
        "runtime": "openvino",
        "type": "f16",
        "measured": ["as-is: 98 MB", "f16 with OpenVINO: 2.5 times as fast"],
    }
    assert run("show") == 0
    assert "My.model: f16 with OpenVINO\n  as-is: 98 MB\n  f16 with OpenVINO: 2.5" in capsys.readouterr().out


@needs_llama
def test_a_library_that_the_settings_exclude_is_shown_and_not_chosen(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The setting `library` restricts the choice, not the list."""
    first = find_libraries()[0]
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(first.path))
    assert run("show", "--json") == 0
    rows = json.loads(capsys.readouterr().out)["libraries"]
    assert {row["path"] for row in rows if row["chosen_for"]} == {str(first.path)}
    assert len(rows) == len(find_libraries())


def test_a_build_without_a_compiler_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In one line."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert run("build") == 1
    assert "there is no C++ compiler" in capsys.readouterr().err
