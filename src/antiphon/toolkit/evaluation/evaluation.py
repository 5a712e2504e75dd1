"""Run a task over cases with several models, and score every answer."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack, cast

import anyio

from antiphon.toolkit._sync import portal
from antiphon.toolkit.arguments import require_several
from antiphon.toolkit.calls.options import CallOptions
from antiphon.toolkit.chat.reply import Reply
from antiphon.toolkit.costs.report import Report
from antiphon.toolkit.errors import BudgetExceededError, EvaluationError
from antiphon.toolkit.evaluation.cases import Case, read_cases
from antiphon.toolkit.evaluation.result import CaseRun, EvaluationResult
from antiphon.toolkit.evaluation.scores import Score, checked, plain
from antiphon.toolkit.index.answers import CitedAnswer
from antiphon.toolkit.record import total_cost
from antiphon.toolkit.tools.invoke import invoke


class Evaluation:
    """A task, its cases, and how answers are scored.

    ``task`` is called as ``task(case, model=..., **options)``, with the options of ``run``, and returns a ``Reply`` or a
    ``CitedAnswer`` (whose cost and seconds are taken) or any other value (whose cost is not known). It may be async; a plain
    one runs in a thread. ``scores`` are ``equals``, ``close``, ``contains``, ``judge``, for answers from an index ``recall_at``,
    ``cited``, ``faithful``, or a ``Score`` of your own.
    """

    def __init__(
        self, cases: str | Path | Sequence[Case], *, task: Callable[..., Any], scores: Sequence[Score]
    ) -> None:
        self.cases = list(cases) if not isinstance(cases, str | Path) else read_cases(cases)
        self.task = task
        self.scores = tuple(scores)
        if not self.cases:
            raise EvaluationError("An evaluation needs cases", hint='Case("1", "What is asked?", "what is expected")')
        if strange := [score for score in scores if not isinstance(cast("Any", score), Score)]:
            raise EvaluationError(f"{strange[0]!r} is not a score", hint="Score('its name', a_function)")
        names = [score.name for score in scores]
        if not names or len(set(names)) < len(names):
            raise EvaluationError(f"An evaluation needs scores of different names, got {names!r}")

    def run(
        self, models: Sequence[str], *, repeat: int = 1, concurrency: int = 8, **options: Unpack[CallOptions]
    ) -> EvaluationResult:
        """Ask each of ``models`` every case ``repeat`` times, and score the answers.

        ``options`` are passed to the task and to judges: with ``cache=`` a second run costs nothing, ``budget=`` bounds all
        of it. With ``repeat`` above 1 each repeat has a ``seed`` of its own. A case that fails, or whose judge fails, scores 0 and has its error.
        Raises BudgetExceededError, and EvaluationError for a score that is not one.
        """
        return portal.call(self.arun(models, repeat=repeat, concurrency=concurrency, **options))

    async def arun(
        self, models: Sequence[str], *, repeat: int = 1, concurrency: int = 8, **options: Unpack[CallOptions]
    ) -> EvaluationResult:
        """Do what ``run`` does, from asynchronous code."""
        require_several("models", models)
        if not models or repeat < 1 or concurrency < 1:
            given = f"models={list(models)!r}, repeat={repeat!r}, concurrency={concurrency!r}"
            raise EvaluationError(f"An evaluation needs models, repeat >= 1 and concurrency >= 1, got {given}")
        work = [(model, case, number) for number in range(repeat) for case in self.cases for model in models]
        runs: list[CaseRun | None] = [None] * len(work)
        judging = Report()
        pending = iter(enumerate(work))
        stopped: list[Exception] = []

        async def worker() -> None:
            for place, (model, case, number) in pending:
                if stopped:
                    return
                seed = {} if repeat == 1 else {"seed": number}
                try:
                    runs[place] = await self._one(model, case, number, {**options, **seed}, judging)
                except (BudgetExceededError, EvaluationError) as error:
                    stopped.append(error)

        try:
            async with anyio.create_task_group() as group:
                for _ in range(min(concurrency, len(work))):
                    group.start_soon(worker)
        finally:
            if (report := options.get("report")) is not None:
                for record in judging.records:
                    report.add(record)
        if stopped:
            raise stopped[0]
        done = tuple(run for run in runs if run is not None)
        names = tuple(score.name for score in self.scores)
        return EvaluationResult(tuple(models), names, done, total_cost(judging.records))

    async def _one(self, model: str, case: Case, number: int, options: Mapping[str, Any], judging: Report) -> CaseRun:
        begun = time.perf_counter()
        try:
            answered: Any = await invoke(self.task, case, model=model, **options)
        except (BudgetExceededError, EvaluationError):
            raise
        except Exception as error:  # noqa: BLE001 - whatever the task raises is a case that was not answered
            seconds = time.perf_counter() - begun
            zero = {score.name: 0.0 for score in self.scores}
            return CaseRun(case.id, model, number, None, zero, None, seconds, error=f"{type(error).__name__}: {error}")
        seconds = time.perf_counter() - begun
        reply, answer = _told(answered)
        asked = {**options, "report": judging}
        scores, failure = await self._scores(case, answer, asked)
        from_cache = reply is not None and all(record.from_cache for record in reply.records)
        cost = None if reply is None else reply.cost
        return CaseRun(case.id, model, number, plain(answer), scores, cost, seconds, from_cache, failure)

    async def _scores(self, case: Case, answer: Any, options: Mapping[str, Any]) -> tuple[dict[str, float], str | None]:
        """Return the scores by name, and why one of them could not be given (its judge failed): it is then 0."""
        scores, failure = dict[str, float](), None
        for score in self.scores:
            try:
                scores[score.name] = await _score(score, case, answer, options)
            except (BudgetExceededError, EvaluationError):
                raise
            except Exception as error:  # noqa: BLE001 - whatever a scorer raises concerns one case
                scores[score.name] = 0.0
                failure = f"the score {score.name!r}: {type(error).__name__}: {error}"
        return scores, failure


def _told(answered: Any) -> tuple[Reply[Any] | None, Any]:
    """Return the reply in what a task returned, if there is one, and what is scored."""
    if isinstance(answered, CitedAnswer):
        return answered.reply, answered
    if not isinstance(answered, Reply):
        return None, answered
    reply = cast("Reply[Any]", answered)
    return reply, reply.text if reply.parsed is None else reply.parsed


async def _score(score: Score, case: Case, answer: Any, options: Mapping[str, Any]) -> float:
    given = score.scorer(case, answer, options)
    return checked(score.name, await given if inspect.isawaitable(given) else given)
