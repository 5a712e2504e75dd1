"""Scores of answers from an index: what was found, what is cited, what the sources say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from antiphon import (
    Case,
    CitedAnswer,
    Document,
    Evaluation,
    EvaluationError,
    Index,
    Report,
    Summary,
    cited,
    contains,
    faithful,
    recall_at,
)
from antiphon.backends.scripted.script import Pattern, Reply, Script
from antiphon.cli.root import main
from antiphon.testing import ScriptedEndpoint
from antiphon.toolkit.evaluation.index_scores import split_statements

DOCUMENTS = [
    Document("lending.md", "Books are lent for three weeks."),
    Document("losses.md", "A lost book costs its price."),
    Document("hours.md", "The library opens at nine."),
]
CASE = Case("1", "What does a lost book cost?", "its price", metadata={"documents": ["losses.md"]})
PASSES, FAILS = (json.dumps({"reason": "r", "passes": passes}) for passes in (True, False))


def endpoint_of(answer: str, *rules: tuple[str, str]) -> ScriptedEndpoint:
    """An endpoint that answers questions with ``answer``, and what judges ask by rules: (what the message has, text)."""
    replies = [Reply(match=Pattern(last_message=word), text=text) for word, text in rules]
    asked = Reply(match=Pattern(last_message="Question: "), text=answer)
    return ScriptedEndpoint(script=Script(models=("m", "text-embedding-3-small"), replies=(asked, *replies)))


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    path = tmp_path / "kb.sqlite"
    with Index(path, client=ScriptedEndpoint().client()) as index:
        index.update(DOCUMENTS)
    return path


def result_of(path: Path, client: OpenAI, *scores: Any, case: Case = CASE, **options: Any) -> Any:
    with Index(path, client=client) as index:

        def task(case: Case, **given: Any) -> CitedAnswer:
            return index.answer(case.input, num_sources=2, mode="bm25", **given)

        return Evaluation([case], task=task, scores=scores).run(["m"], **options)


def test_answers_of_an_index_are_scored_with_their_sources_and_their_cost(kept: Path) -> None:
    """Scores of texts see the text; the judges' calls are in the report, apart from the model's cost."""
    endpoint = endpoint_of("A lost book costs its price [1].", ("statement", PASSES), ("answer", PASSES))
    report, client = Report(), endpoint.client()
    scores = (contains(), recall_at(2), cited(model="m", client=client), faithful(model="m", client=client))
    result = result_of(kept, client, *scores, report=report)
    assert [result.mean("m", name).value for name in result.scores] == [1.0] * 4
    assert result.scores == ("contains", "recall at 2", "cited", "faithful")
    assert (result.runs[0].answer, result.runs[0].error) == ("A lost book costs its price [1].", None)
    assert report.statistics().num_calls == len(endpoint.requests) == 3
    statement, answer = (json.loads(request["messages"][-1]["content"]) for request in endpoint.requests[1:])
    assert statement == {"sources": ["A lost book costs its price."], "statement": "A lost book costs its price ."}
    assert answer["sources"][0] == "A lost book costs its price."


@pytest.mark.parametrize(
    ("text", "supported", "score"),
    [
        ("It costs its price [1]. It is bound in red [2]!", PASSES, 1.0),
        ("It costs its price. [1] It is bound in red.", PASSES, 0.5),
        ("It costs its price [1]. It is bound in red [7].", PASSES, 0.5),
        ("It costs its price [1].\n- It is bound in red [1, 2].", FAILS, 0.0),
        ("It costs its price.", PASSES, 0.0),
        ("", PASSES, 0.0),
    ],
)
def test_each_statement_needs_a_source_that_exists_and_supports_it(
    kept: Path, text: str, supported: str, score: float
) -> None:
    """A statement without a mark, with a made-up one, or one that its source does not say, does not count."""
    client = endpoint_of(text or " ", ("statement", supported)).client()
    assert result_of(kept, client, cited(model="m", client=client)).mean("m").value == score


def test_without_a_judge_citations_only_have_to_exist(kept: Path) -> None:
    """And nothing but the answer is asked for."""
    endpoint = endpoint_of("It costs its price [1]. It is bound in red [7].")
    assert result_of(kept, endpoint.client(), cited(model=None)).mean("m").value == 0.5
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize(
    ("documents", "limit", "score"),
    [(["losses.md"], 1, 1.0), (["losses.md", "none.md"], 2, 0.5), ("losses.md", 2, 1.0), (["none.md"], 2, 0.0)],
)
def test_recall_is_the_share_of_documents_that_were_found(kept: Path, documents: Any, limit: int, score: float) -> None:
    """Of an answer's sources, and of the hits of a search alike."""
    case = Case("1", "What does a lost book cost?", metadata={"documents": documents})
    endpoint = endpoint_of("ok [1]")
    assert result_of(kept, endpoint.client(), recall_at(limit), case=case).mean("m").value == score
    with Index(kept, client=endpoint.client()) as index:
        task: Any = lambda case, **_: index.search(case.input, mode="bm25")  # noqa: E731 - a task
        found = Evaluation([case], task=task, scores=[recall_at(limit)]).run(["m"])
    assert found.mean("m").value == score


def test_what_cannot_be_scored_is_said(kept: Path) -> None:
    """A case without documents, answers of other kinds, no limit."""
    client = endpoint_of("ok [1]").client()
    with pytest.raises(EvaluationError, match="does not say which documents"):
        result_of(kept, client, recall_at(2), case=Case("1", "a lost book"))
    for score, name in ((recall_at(2), "str"), (cited(), "str")):
        with pytest.raises(EvaluationError, match=name):
            Evaluation([CASE], task=lambda case, **_: "text", scores=[score]).run(["m"])
    with pytest.raises(EvaluationError, match="at least 1"):
        recall_at(0)


def test_a_summary_is_judged_by_what_it_sums_up() -> None:
    """The case's input is the source."""
    endpoint = endpoint_of("-", ("sources", FAILS))
    client = endpoint.client()
    task: Any = lambda case, **_: Summary("Made up.", 1, 1, ())  # noqa: E731 - a task
    result = Evaluation([Case("1", "a long text")], task=task, scores=[faithful(model="m", client=client)]).run(["m"])
    assert result.mean("m").value == 0.0
    assert json.loads(endpoint.requests[0]["messages"][-1]["content"])["sources"] == ["a long text"]


def test_a_judge_that_fails_is_an_error_of_its_case(kept: Path) -> None:
    """The other scores and the other cases go on."""
    endpoint = endpoint_of("It costs its price [1].")
    client = endpoint.client(max_retries=0)
    result = result_of(kept, client, contains(), faithful(model="unknown", client=client))
    assert result.mean("m", "contains").value == 1.0
    assert result.mean("m", "faithful").value == 0.0
    assert "the score 'faithful': NotFoundError" in str(result.errors("m")[0].error)
    assert "m: 1 of its runs failed, first case 1: the score 'faithful'" in str(result)


@pytest.mark.parametrize(
    ("text", "statements"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("It takes 3.5 weeks, e.g. for novels.", ["It takes 3.5 weeks, e.g. for novels."]),
        ("Long. [1] [2] Short.[3]", ["Long [1] [2].", "Short[3]."]),
        ("- one [1]\n- two [2]\n\n[3]", ["- one [1]", "- two [2]"]),
        ("一つ。二つ。", ["一つ。", "二つ。"]),
    ],
)
def test_a_statement_is_a_sentence_or_a_line_with_its_marks(text: str, statements: list[str]) -> None:
    """In any script; numbers and abbreviations end none."""
    assert split_statements(text) == statements


def test_the_command_measures_an_index(
    kept: Path, scripted: ScriptedEndpoint, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the same file as other evaluations; what does not go together is refused."""
    monkeypatch.chdir(kept.parent)
    monkeypatch.setenv("ANTIPHON_HOME", str(kept.parent / "home"))
    replies = (Reply(match=Pattern(last_message="Question: "), text="Its price [1]."),)
    scripted.script = Script(models=("gpt-4o-mini",), embedding_models=("text-embedding-3-small",), replies=replies)
    scripted.__post_init__()
    Path("cases.jsonl").write_text(json.dumps({"input": "a lost book", "documents": ["losses.md"]}))
    lines = ['cases = "cases.jsonl"', 'index = "kb.sqlite"', "[[scores]]", 'kind = "recall"', "limit = 2"]
    words = ["eval", "suite.toml", "--model", "gpt-4o-mini", "--base-url", "https://api.openai.com/v1"]

    def run() -> tuple[int, str]:
        Path("suite.toml").write_text("\n".join(lines))
        with pytest.raises(SystemExit) as ended:
            main(words)
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out + printed.err

    assert "1.000" in run()[1]
    Path("cases.jsonl").write_text(json.dumps({"input": "what?"}))
    assert "does not say which documents" in run()[1]
    lines[1] = 'index = "none.sqlite"'
    assert "there is no index none.sqlite" in run()[1]
    lines[1] = 'index = "kb.sqlite"\nschema = "a int"'
    assert "leave out schema and system" in run()[1]
