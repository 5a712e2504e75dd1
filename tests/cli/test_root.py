import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from antiphon import __version__
from antiphon.cli.root import COMMANDS, describe, main
from antiphon.errors import AntiphonError
from antiphon.toolkit.cache_file import CacheWriteWarning

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r"(?:[`\"'$]|^|: |with ) ?antiphon ([a-z]+)(?: ([a-z]+)\b)?", re.MULTILINE)


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(words)
    out, err = capsys.readouterr()
    return int(caught.value.code or 0), out, err


def test_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """--version says the version and ends well."""
    assert run(capsys, "--version")[:2] == (0, f"antiphon {__version__}\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """--help of each command works, and the list of commands says what each is for."""
    status, out, _ = run(capsys, command, "--help")
    assert status == 0
    assert f"antiphon {command}" in out
    assert COMMANDS[command][1] in run(capsys, "--help")[1]
    # A default that says nothing is not shown.
    assert not re.search(r"\[default: (False|None|\(\)|\[\]|\"\")?\]", " ".join(out.replace("│", " ").split()))
    # The line of the list is not all: what its function says is there as well.
    assert COMMANDS[command][1] not in out or command in {"keys", "models", "engine"}


def test_every_command_that_is_named_exists(capsys: pytest.CaptureFixture[str]) -> None:
    """Hints of the code and pages of the documentation tell nobody to run what there is not."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "src").rglob("*.py")]
    named = {words for page in pages for words in NAMED.findall(page.read_text())}
    assert len(named) > 20
    for command, word in named:
        assert command in COMMANDS, command
        if word and command in {"models", "keys", "engine"}:
            assert run(capsys, command, word, "--help")[0] == 0, (command, word)


def test_an_error_is_one_line_with_its_fix(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """No traceback; what is wrong and what to do."""
    monkeypatch.setenv("ANTIPHON_SERVER_PROT", "1")
    status, _, err = run(capsys, "serve")
    assert status == 1
    assert err.count("\n") == 1
    assert "ANTIPHON_SERVER_PROT" in err
    assert "did you mean 'port'?" in err


def test_debug_shows_where_an_error_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """With --debug the exception itself comes through."""
    monkeypatch.setenv("ANTIPHON_SERVER_PROT", "1")
    with pytest.raises(AntiphonError):
        main(["serve", "--debug"])


def test_the_first_of_several_errors_is_described() -> None:
    """A group of failures is said by its first."""
    group = ExceptionGroup("two", [AntiphonError("a broke", hint="fix a"), ValueError("b")])
    assert describe(group) == "antiphon: a broke - fix a"
    assert "--debug" in describe(ValueError("b"))


def test_help_loads_no_server_code() -> None:
    """A command loads its own module alone, so that the command line answers at once."""
    code = (
        "import sys, contextlib; from antiphon.cli.root import main\n"
        "with contextlib.suppress(SystemExit): main(['--help'])\n"
        "print([name for name in ('starlette', 'sqlalchemy', 'openai', 'numpy') if name in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.splitlines()[-1] == "[]"


def test_a_warning_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Ours is, without the place in the code; another library's is shown as ever."""

    def warn(_: object) -> None:
        warnings.simplefilter("always")
        warnings.warn("the disk is full", CacheWriteWarning, stacklevel=1)
        warnings.warn("not ours", RuntimeWarning, stacklevel=1)

    shown: list[str] = []
    monkeypatch.setattr("warnings.showwarning", lambda message, *_, **__: shown.append(str(message)))
    monkeypatch.setattr("antiphon.cli.root.application", lambda _: warn)
    assert run(capsys, "cache") == (0, "", "antiphon: the disk is full\n")
    assert shown == ["not ours"]
