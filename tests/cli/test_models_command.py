import json
from pathlib import Path

import pytest
from tests.models.tiny import tiny_bert, tiny_gguf

from antiphon.cli import main


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ANTIPHON_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path / "home"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    for name, data in tiny_bert().items():
        (tmp_path / "enc" / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / "enc" / name).write_bytes(data)
    return tmp_path / "enc" / "model.safetensors"


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["models", *words])
    return int(caught.value.code or 0)


def test_list_shows_what_there_is(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both defaults with the names they answer to, and what fetching them costs."""
    assert run("list") == 0
    out = capsys.readouterr().out
    assert "smollm2-135m-instruct" in out
    assert "gpt-4o, gpt-4o-mini" in out
    assert "93 MB to fetch" in out


def test_the_list_is_never_cut(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """In a narrow terminal too, names are whole: they are there to be copied."""
    monkeypatch.setenv("COLUMNS", "40")
    assert run("list") == 0
    assert "text-embedding-3-small, text-embedding-3-large" in capsys.readouterr().out


def test_pull_then_everything_else(home: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model pulled from anywhere has a name from then on: list, show, path and remove know it."""
    assert run("pull", str(weights), "--json") == 0
    pulled = json.loads(capsys.readouterr().out)
    assert pulled["id"] == "enc"
    assert Path(pulled["path"]).is_file()

    assert run("list", "--json") == 0
    listed = {row["id"]: row for row in json.loads(capsys.readouterr().out)}
    assert listed["enc"]["kind"] == "embedding"
    assert listed["enc"]["size_bytes"] == Path(pulled["path"]).stat().st_size
    assert listed["smollm2-135m-instruct"]["size_bytes"] is None

    assert run("show", "enc", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["architecture"], shown["embedding_length"], shown["context_length"]) == ("bert", 8, 16)
    assert run("show", "enc") == 0
    assert "sha256" in capsys.readouterr().out

    assert run("path", "enc") == 0
    assert capsys.readouterr().out.strip() == pulled["path"]

    assert run("remove", "enc") == 0
    assert "Removed enc" in capsys.readouterr().out
    assert not Path(pulled["path"]).exists()


def test_pull_again_checks_and_repairs(home: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bytes that changed on disk are noticed and made anew."""
    run("pull", str(weights), "--json")
    path = Path(json.loads(capsys.readouterr().out)["path"])
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"?")
    assert run("pull", str(weights)) == 0
    assert "fetched anew" in capsys.readouterr().err
    assert path.read_bytes() == whole


def test_nothing_but_the_answer_goes_to_a_pipe(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the output is no terminal there is no bar and no colour."""
    (tmp_path / "m.gguf").write_bytes(tiny_gguf())
    assert run("pull", str(tmp_path / "m.gguf")) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "\x1b" not in printed.err
    assert str(tmp_path / "m.gguf") in printed.err


def test_a_path_is_said_as_it_is(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Brackets are part of it."""
    (tmp_path / "[b]").mkdir()
    (tmp_path / "[b]" / "m.gguf").write_bytes(tiny_gguf())
    assert run("pull", str(tmp_path / "[b]" / "m.gguf")) == 0
    assert "[b]/m.gguf" in capsys.readouterr().err


def test_a_file_that_is_used_where_it_lies_gets_no_name(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No list would know the name, so it is not taken."""
    (tmp_path / "m.gguf").write_bytes(tiny_gguf())
    assert run("pull", str(tmp_path / "m.gguf")) == 0
    assert run("pull", str(tmp_path / "m.gguf"), "--name", "mine") == 1
    assert f"antiphon serve --model {tmp_path / 'm.gguf'}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["path", "gpt4o"], "antiphon: There is no model 'gpt4o'. - Did you mean 'gpt-4o'"),
        (["path", "gpt-4o"], "is not on this machine. - Fetch it with: antiphon models pull smollm2-135m-instruct"),
        (["show", "nope-nope"], "See which there are with: antiphon models list"),
        (["remove", "gpt-4o"], "The model 'smollm2-135m-instruct' is not on this machine."),
        (["pull", "./missing.gguf"], "missing.gguf does not exist. - Check the path."),
        (["pull", "hf:oops"], "'hf:oops' is not a model source"),
    ],
)
def test_an_error_is_one_line_with_the_fix(
    home: Path, words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """No traceback: what is wrong and what to do."""
    assert run(*words) == 1
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1
