"""``antiphon keys`` and ``antiphon usage``, as a user types them."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from antiphon.accounts.reports import UsageTotal
from antiphon.cli import main
from antiphon.cli.usage import _print_table

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run one command in a home of its own; returns its exit status and both outputs."""
    monkeypatch.setenv("ANTIPHON_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")

    def run_command(*tokens: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(tokens)
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return run_command


def test_a_key_is_shown_once_alone_on_standard_output(run: Run) -> None:
    """KEY=$(antiphon keys create ...) holds the key; no list shows it again."""
    status, out, err = run("keys", "create", "--name", "bob")
    key = out.strip()
    assert (status, key[:12], len(key)) == (0, "sk-antiphon-", 55)
    assert "cannot be shown again" in err
    for words in (["keys", "list"], ["keys", "list", "--json"]):
        _, out, _ = run(*words)
        assert key not in out
        assert key[-4:] in out


def test_all_that_a_key_can_have(run: Run) -> None:
    """Every option of create comes back in the list."""
    options = (
        "--rpm 3 --tpm 1000 --rpd 50 --concurrency 2 --budget-usd 1.5 --budget-period month --models gpt-4o,x* --admin"
    )
    run("keys", "create", "--name", "bob", *options.split(), "--expires", "2999-01-31")
    (listed,) = json.loads(run("keys", "list", "--json")[1])
    del listed["id"], listed["key"], listed["created_at_ms"]
    assert listed == {
        "name": "bob",
        "state": "active",
        "expires_at_ms": 32_474_736_000_000,
        "revoked_at_ms": None,
        "rpm": 3,
        "tpm": 1000,
        "rpd": 50,
        "concurrency": 2,
        "budget_usd": 1.5,
        "budget_period": "month",
        "models": ["gpt-4o", "x*"],
        "is_admin": True,
    }
    table = run("keys", "list")[1]
    for words in ("bob (admin)", "rpm 3, tpm 1000, rpd 50, concurrency 2", "$1.5 month", "gpt-4o, x*", "2999-01-31"):
        assert words in table


def test_revoke_and_rotate(run: Run) -> None:
    """A rotated key has a new secret; a revoked one is told as such."""
    old = run("keys", "create", "--name", "bob")[1]
    new = run("keys", "rotate", "bob")[1]
    assert new.startswith("sk-antiphon-")
    assert new != old
    assert run("keys", "revoke", "bob")[1].startswith("Revoked bob (key_")
    assert json.loads(run("keys", "list", "--json")[1])[0]["state"] == "revoked"
    status, _, err = run("keys", "revoke", "bob")
    assert (status, err) == (
        1,
        "antiphon: There is no key 'bob' - `antiphon keys list` shows their names and ids.\n",
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--rpm", "0"], "rpm must be from 1 to 2147483647, not 0"),
        (["--expires", "soon"], "--expires is 'soon'"),
        (["--expires", "2001-01-01"], "which is over"),
        (["--models", ","], "--models is ','"),
        (["--budget-usd", "0"], "--budget-usd is '0.0'"),
    ],
)
def test_what_cannot_be_meant_is_refused(run: Run, options: list[str], words: str) -> None:
    """A wrong value makes no key."""
    status, out, err = run("keys", "create", "--name", "bob", *options)
    assert (status, out) == (1, "")
    assert words in err
    assert json.loads(run("keys", "list", "--json")[1]) == []


def test_usage_of_nobody(run: Run) -> None:
    """Without a request there is a sentence for people, and nothing for programs."""
    assert run("usage")[1].startswith("Nothing was used since 20")
    assert json.loads(run("usage", "--json")[1]) == []
    (heading,) = csv.reader(io.StringIO(run("usage", "--csv", "--by", "key", "--by", "model")[1]))
    assert heading[:3] == ["key_id", "key", "model"]


@pytest.mark.parametrize("factor", [1, 1_000_000])
def test_usage_is_never_cut(factor: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of 80 columns holds what most have, and larger figures are whole as well; what has no price is said below."""
    monkeypatch.setenv("COLUMNS", "80")
    total = UsageTotal(
        bucket_ms=1_700_000_000_000,
        key_id=None,
        key_name=None,
        model=None,
        num_requests=345 * factor,
        num_failed=123,
        prompt_tokens=345_678 * factor,
        completion_tokens=34_567 * factor,
        cached_tokens=4_567 * factor,
        compute_s=1_234.5,
        usd=1.5,
        num_unpriced=3,
        saved_usd=None,
        mean_ttft_s=0.325,
        num_estimated=2,
    )
    _print_table([total], ("day",))
    lines = capsys.readouterr().out.splitlines()
    assert lines.pop() == "with estimates for 2 requests whose API did not report its tokens"
    counts = [f"{n * factor:,}" for n in (345_678, 4_567, 34_567)]
    assert lines[-2].split() == [
        "2023-11-14",
        f"{345 * factor:,}",
        "123",
        *counts,
        "1,234.5",
        "0.325",
        "1.500000*",
    ]
    assert factor > 1 or max(map(len, lines[:-1])) <= 80
    assert lines[-1].startswith("* without 3 requests")


def test_a_name_is_one_line(run: Run) -> None:
    """So that a list of keys is one line for each."""
    status, _, err = run("keys", "create", "--name", "a\nb")
    assert (status, err.count("\n")) == (1, 1)


def test_a_home_that_cannot_be_made_is_explained(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line that says what to look at."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("ANTIPHON_HOME", str(tmp_path / "file" / "home"))
    status, _, err = run("keys", "list")
    assert (status, err.count("\n")) == (1, 1)
    assert "ANTIPHON_HOME" in err


def test_names_are_shown_as_they_are(run: Run) -> None:
    """Brackets in a name are part of it."""
    run("keys", "create", "--name", "[team] a")
    assert "[team] a" in run("keys", "list")[1]


def test_usage_of_a_key_that_is_not_there(run: Run) -> None:
    """A misspelt key is an error, not an empty table."""
    status, _, err = run("usage", "--key", "bbo")
    assert status == 1
    assert "There is no key 'bbo'" in err


@pytest.mark.parametrize("words", ["--since yesterday", "--until 5d"])
def test_times_that_cannot_be_read(run: Run, words: str) -> None:
    """A time is a length or a date; the error says so."""
    status, _, err = run("usage", *words.split())
    assert status == 1
    assert "date (2027-01-31)" in err
