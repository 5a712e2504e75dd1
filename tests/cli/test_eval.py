"""``antiphon eval``: a file of cases, a table, a baseline, and a status that a pipeline reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from antiphon.backends.scripted.script import Pattern, Reply, Script
from antiphon.cli.root import main
from antiphon.testing import ScriptedEndpoint

FILE = """
cases = "reviews.jsonl"
schema = "sentiment"
[[scores]]
kind = "equals"
field = "sentiment"
"""


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["eval", *words])
    printed = capsys.readouterr()
    return int(ended.value.code or 0), printed.out, printed.err


def test_a_regression_has_its_own_status(
    scripted: ScriptedEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """3 for what got worse, 0 for noise; the second run is from the cache; the cheapest that is good enough is named."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANTIPHON_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    Path("suite.toml").write_text(FILE)
    lines = [{"input": f"good {n}", "expected": {"sentiment": "positive"}} for n in range(8)]
    Path("reviews.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def answers(text: str) -> None:
        reply = Reply(match=Pattern(last_message="good"), text=json.dumps({"sentiment": text}))
        scripted.script = Script(models=("gpt-4o-mini",), replies=(reply,))
        scripted.__post_init__()

    answers("positive")
    words = ("suite.toml", "--model", "gpt-4o-mini", "--base-url", "https://api.openai.com/v1")
    status, out, _ = run(capsys, *words, "--out", "baseline.json", "--at-least", "0.9")
    assert status == 0
    assert "gpt-4o-mini  1.000" in out
    assert "gpt-4o-mini: at most" in out
    sent = len(scripted.requests)
    assert run(capsys, *words, "--baseline", "baseline.json")[0] == 0
    assert len(scripted.requests) == sent
    answers("negative")
    status, out, _ = run(capsys, *words, "--no-cache", "--baseline", "baseline.json")
    assert status == 3
    assert "worse: gpt-4o-mini, equals sentiment: 1.000 before, 0.000 now" in out
    shown = json.loads(run(capsys, *words, "--json")[1])
    assert shown["models"]["gpt-4o-mini"]["scores"]["equals sentiment"]["value"] == 1.0
    Path("suite.toml").write_text("cases = 1")
    assert "does not describe an evaluation" in run(capsys, *words)[2]


@pytest.mark.parametrize(
    ("kind", "keys", "told"),
    [
        ("contains", 'field = "a"', "the score 'contains' takes no 'field' - it takes no other key"),
        ("equals", "tolerance = 0.1", "the score 'equals' takes no 'tolerance' - it takes field"),
        ("recall", 'model = "m"', "the score 'recall' takes no 'model' - it takes limit"),
        ("judge", 'question = "Is it?"\nlimit = 3', "the score 'judge' takes no 'limit' - it takes model, question"),
        ("equals", '[[scores]]\nkind = "contains"\nquestion = "Is it?"', "'contains' takes no 'question'"),
    ],
)
def test_a_score_takes_its_own_keys_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, keys: str, told: str
) -> None:
    """A key that would do nothing is refused, as everywhere."""
    (tmp_path / "suite.toml").write_text(f'cases = "c.jsonl"\n[[scores]]\nkind = "{kind}"\n{keys}\n')
    (tmp_path / "c.jsonl").write_text('{"input": "x", "expected": "y"}\n')
    status, _, err = run(capsys, str(tmp_path / "suite.toml"), "--model", "m", "--base-url", "http://127.0.0.1:9/v1")
    assert status == 1
    assert told in err


def test_what_belongs_to_an_index_needs_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Else the cases would be asked without it."""
    (tmp_path / "suite.toml").write_text('cases = "c.jsonl"\nnum_sources = 3\n[[scores]]\nkind = "contains"\n')
    assert "belong to an index" in run(capsys, str(tmp_path / "suite.toml"), "--model", "m")[2]
