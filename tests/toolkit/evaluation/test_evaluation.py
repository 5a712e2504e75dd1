"""Evaluations: cases, scores, models, cost, cache, baselines, and the choice of a model."""

import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import antiphon
from antiphon import Budget, Case, Chat, Evaluation, Price, PriceTable, ResponseCache, Score
from antiphon.backends.scripted.script import Pattern, Reply, Script
from antiphon.testing import ScriptedEndpoint
from antiphon.toolkit.errors import BudgetExceededError, EvaluationError, NoModelError
from antiphon.toolkit.evaluation.result import CaseRun, EvaluationResult

PRICES = PriceTable({"small": Price("1", "2"), "large": Price("10", "20")})
CASES = [Case(str(number), f"is {number} even?", "yes" if number % 2 == 0 else "no") for number in range(10)]


class Review(BaseModel):
    sentiment: str
    score: int


def endpoint_of(*replies: tuple[str, str, str], models: tuple[str, ...] = ("small", "large")) -> ScriptedEndpoint:
    """An endpoint whose models answer by rules: (model, what the last message has, text)."""
    rules = tuple(Reply(match=Pattern(model=model, last_message=word), text=text) for model, word, text in replies)
    return ScriptedEndpoint(script=Script(models=models, replies=rules))


def suite(endpoint: ScriptedEndpoint, **options: Any) -> Evaluation:
    def task(case: Case, **given: Any) -> Any:
        return Chat("Say yes or no.", client=endpoint.client(), temperature=0, prices=PRICES, **given).send(case.input)

    return Evaluation(CASES, task=task, scores=[antiphon.equals(), antiphon.contains()], **options)


EVEN = endpoint_of(("large", "[02468] even", "yes"), ("large", "even", "no"), ("small", "even", "yes"))


def test_models_are_compared_by_score_cost_and_latency() -> None:
    """The small one says yes to everything; the table shows both."""
    result = suite(EVEN).run(["small", "large"])
    assert (result.mean("small").value, result.mean("large").value) == (0.5, 1.0)
    assert result.mean("small", "equals").low < 0.5 < result.mean("small", "equals").high
    small, large = result.cost("small"), result.cost("large")
    assert small is not None
    assert large is not None
    assert large == small * 10
    assert result.median_s("small") is not None
    assert str(result).splitlines()[0].split() == ["model", "equals", "contains", "cost", "median", "errors"]
    assert antiphon.choose_model(result, at_least=0.9).model == "large"
    assert antiphon.choose_model(result, at_least=0.4).model == "small"
    with pytest.raises(NoModelError, match="its score is"):
        antiphon.choose_model(result, at_least=1.1)
    unpriced = EvaluationResult(("m",), ("s",), (CaseRun("1", "m", 0, "a", {"s": 1.0}, None, 1.0),))
    with pytest.raises(NoModelError, match="of a known price scores") as refused:
        antiphon.choose_model(unpriced, at_least=0.5)
    assert "prices=" in (refused.value.hint or "")
    with pytest.raises(TypeError, match="at_least"):
        antiphon.choose_model(antiphon.Task(10), at_least=0.5)  # type: ignore[call-overload]


def test_a_second_run_costs_nothing(tmp_path: Path) -> None:
    """Every answer is in the response cache; repeats are answers of their own."""
    endpoint = endpoint_of(("large", "[02468] even", "yes"), ("large", "even", "no"))
    with ResponseCache(tmp_path / "cache.sqlite") as cache:
        first = suite(endpoint).run(["large"], cache=cache, repeat=2)
        sent = len(endpoint.requests)
        again = suite(endpoint).run(["large"], cache=cache, repeat=2)
    assert (sent, len(endpoint.requests)) == (20, 20)
    assert first.cost("large") != 0
    assert (again.cost("large"), again.median_s("large")) == (Decimal(0), None)
    assert again.mean("large") == first.mean("large")


def test_a_budget_bounds_the_whole_run() -> None:
    """It stops before the call that it does not cover."""
    endpoint = endpoint_of(("large", "even", "no"))
    with pytest.raises(BudgetExceededError):
        suite(endpoint).run(["large"], budget=Budget(calls=3), concurrency=1)
    assert len(endpoint.requests) == 3


def test_a_regression_is_found_and_noise_is_not(tmp_path: Path) -> None:
    """Against a result that was saved; the drop is named with its chance."""
    good = suite(EVEN).run(["large"])
    good.save(tmp_path / "baseline.json")
    baseline = EvaluationResult.load(tmp_path / "baseline.json")
    assert suite(EVEN).run(["large"]).regressions(baseline) == []
    worse = suite(endpoint_of(("large", "even", "maybe"))).run(["large"])
    found = worse.regressions(baseline)
    assert [(each.score, each.before, each.after) for each in found] == [("equals", 1.0, 0.0), ("contains", 1.0, 0.0)]
    with pytest.raises(EvaluationError, match="no model, score and case in common"):
        suite(EVEN).run(["small"]).regressions(baseline)
    others = EvaluationResult(
        good.models, good.scores, tuple(replace(run, case=f"other {run.case}") for run in good.runs)
    )
    with pytest.raises(EvaluationError, match="no model, score and case in common"):
        others.regressions(baseline)
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(EvaluationError, match="not a saved result"):
        EvaluationResult.load(tmp_path / "other.json")


def test_a_judge_costs_apart_from_the_model() -> None:
    """It sees input, expectation and answer, and its verdict is a score."""
    endpoint = endpoint_of(
        ("small", "Ann", "Ann is here"),
        ("large", "is here", '{"reason": "it names her", "passes": true}'),
        ("large", ".", '{"reason": "no", "passes": false}'),
    )

    def task(case: Case, **options: Any) -> Any:
        return Chat(client=endpoint.client(), **options).send(case.input)

    polite = antiphon.judge("Does the answer name Ann?", model="large")
    cases = [Case("1", "Who is it? Ann", "Ann"), Case("2", "nobody")]
    options: Any = {"client": endpoint.client(), "prices": PRICES}
    evaluation = Evaluation(cases, task=lambda case, client, **given: task(case, **given), scores=[polite])
    result = evaluation.run(["small"], **options)
    assert [run.scores[polite.name] for run in result.runs] == [1.0, 0.0]
    assert result.judging is not None
    assert result.judging > 0
    assert "judging: $" in str(result)
    seen = json.loads(next(r for r in endpoint.requests if r["model"] == "large")["messages"][-1]["content"])
    assert set(seen) <= {"input", "expected", "answer"}


def test_parsed_answers_and_own_scores() -> None:
    """Fields of a model, numbers within a tolerance, an asynchronous scorer, and a value that is not a reply."""

    async def short(case: Case, answer: Any, options: Any) -> float:
        return 0.25

    cases = [
        Case("1", "good", {"sentiment": "positive", "score": 4}),
        Case("2", "bad", {"sentiment": "negative", "score": 9}),
    ]
    scores = [antiphon.equals("sentiment"), antiphon.close("score", 1), Score("short", short)]
    result = Evaluation(cases, task=lambda case, **_: Review(sentiment="positive", score=5), scores=scores).run(["m"])
    assert [run.scores for run in result.runs] == [
        {"equals sentiment": 1.0, "close score": 1.0, "short": 0.25},
        {"equals sentiment": 0.0, "close score": 0.0, "short": 0.25},
    ]
    assert result.cost("m") is None
    assert result.runs[0].answer == {"sentiment": "positive", "score": 5}


def test_a_case_that_fails_scores_nothing_and_says_why() -> None:
    """The others are not lost."""

    def task(case: Case, **_: Any) -> str:
        if case.id == "3":
            raise ValueError("no answer")
        return "yes"

    result = Evaluation(CASES, task=task, scores=[antiphon.equals()]).run(["m"])
    assert [(run.case, run.error) for run in result.errors("m")] == [("3", "ValueError: no answer")]
    assert result.mean("m").value == 0.5


def test_what_cannot_be_measured_is_refused(tmp_path: Path) -> None:
    """A line that is no case, two of one id, scores of one name, a score beyond 1."""
    path = tmp_path / "cases.jsonl"
    for text, told in (
        ("", "has no cases"),
        ('{"a": 1}', "line 1 is not a case"),
        ("[1]", "line 1"),
        ('{"id": 1, "input": 2}\n' * 2, "ids"),
    ):
        path.write_text(text)
        with pytest.raises(EvaluationError, match=told):
            antiphon.toolkit.evaluation.cases.read_cases(path)
    with pytest.raises(EvaluationError, match="different names"):
        Evaluation(CASES, task=len, scores=[antiphon.equals(), antiphon.equals()])
    beyond = Evaluation(CASES, task=lambda case, **_: "x", scores=[Score("odd", lambda *_: 2.0)])
    with pytest.raises(EvaluationError, match="from 0 to 1"):
        beyond.run(["m"])
    with pytest.raises(EvaluationError, match="repeat >= 1"):
        beyond.run([])
