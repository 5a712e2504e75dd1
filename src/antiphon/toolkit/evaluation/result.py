"""What an evaluation found: scores with intervals, cost and latency per model, and what got worse since a baseline."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from statistics import median
from typing import Any

from antiphon.toolkit.costs.choose import MeasuredModel
from antiphon.toolkit.errors import EvaluationError
from antiphon.toolkit.evaluation.statistics import Mean, chance_of_drop, mean_of

FORMAT = "antiphon-evaluation/1"
_ALARM = 0.05


@dataclass(frozen=True, slots=True)
class CaseRun:
    """One answer of one model to one case: its scores by name, dollars (None: not known) and seconds.

    ``error`` is why there was no answer, or no score; what is missing counts as 0. ``from_cache``: nothing was sent, and the seconds say nothing.
    """

    case: str
    model: str
    repeat: int
    answer: Any
    scores: Mapping[str, float]
    cost: Decimal | None
    seconds: float
    from_cache: bool = False
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Regression:
    """A mean that dropped by more than noise explains; ``chance`` is how probable the drop is without a change."""

    model: str
    score: str
    before: float
    after: float
    chance: float

    def __str__(self) -> str:
        return (
            f"{self.model}, {self.score}: {self.before:.3f} before, {self.after:.3f} now (by chance: {self.chance:.4f})"
        )


@dataclass(frozen=True)
class EvaluationResult:
    """All runs; ``str(result)`` is a table. ``judging``: dollars of the judges, None if a price is not known."""

    models: tuple[str, ...]
    scores: tuple[str, ...]
    runs: tuple[CaseRun, ...]
    judging: Decimal | None = Decimal(0)
    _by_case: dict[tuple[str, str], dict[str, float]] = field(
        default_factory=dict[tuple[str, str], dict[str, float]], repr=False
    )

    def mean(self, model: str, score: str | None = None) -> Mean:
        """Return the mean over cases of a score (None: of all scores together); repeats of a case are one value."""
        names = self.scores if score is None else (score,)
        columns = [self.by_case(model, name) for name in names]
        return mean_of([sum(column[case] for column in columns) / len(columns) for case in columns[0]])

    def by_case(self, model: str, score: str) -> dict[str, float]:
        """Return a score by case, the mean of its repeats."""
        key = (model, score)
        if key not in self._by_case:
            values: dict[str, list[float]] = {}
            for run in self.runs:
                if run.model == model:
                    values.setdefault(run.case, []).append(run.scores[score])
            self._by_case[key] = {case: sum(each) / len(each) for case, each in values.items()}
        return self._by_case[key]

    def cost(self, model: str) -> Decimal | None:
        """Return the dollars of a model's answers, None if one is not known. An answer from the cache costs nothing."""
        costs = [run.cost for run in self.runs if run.model == model and run.error is None]
        known = [cost for cost in costs if cost is not None]
        return sum(known, Decimal(0)) if len(known) == len(costs) else None

    def median_s(self, model: str) -> float | None:
        """Return the median seconds of a model's answers, None if all came from the cache."""
        seconds = [run.seconds for run in self.runs if run.model == model and not run.from_cache and run.error is None]
        return median(seconds) if seconds else None

    def errors(self, model: str) -> list[CaseRun]:
        return [run for run in self.runs if run.model == model and run.error is not None]

    def measured(self) -> list[MeasuredModel]:
        """Return each model with its mean and its cost, for ``choose_model``."""
        return [MeasuredModel(model, self.mean(model).value, self.cost(model)) for model in self.models]

    def regressions(self, baseline: EvaluationResult) -> list[Regression]:
        """Return what dropped since ``baseline``, case by case, for the models, scores and cases that both have.

        All drops together are false alarms in at most 5 % of comparisons without a change (Bonferroni).
        """
        pairs = [
            (model, score)
            for model in self.models
            for score in self.scores
            if model in baseline.models and score in baseline.scores
            if self.by_case(model, score).keys() & baseline.by_case(model, score).keys()
        ]
        if not pairs:
            raise EvaluationError("The baseline has no model, score and case in common with this result")
        found: list[Regression] = []
        for model, score in pairs:
            old, new = baseline.by_case(model, score), self.by_case(model, score)
            cases = [case for case in new if case in old]
            before, after = [old[case] for case in cases], [new[case] for case in cases]
            chance = chance_of_drop(before, after)
            if chance < _ALARM / len(pairs):
                found.append(Regression(model, score, sum(before) / len(before), sum(after) / len(after), chance))
        return found

    def save(self, path: str | Path) -> None:
        """Write the result as JSON, to be a baseline."""
        runs = [
            {
                **{name: getattr(run, name) for name in CaseRun.__slots__},
                "cost": None if run.cost is None else str(run.cost),
            }
            for run in self.runs
        ]
        judging = None if self.judging is None else str(self.judging)
        value = {"format": FORMAT, "models": self.models, "scores": self.scores, "judging": judging, "runs": runs}
        Path(path).write_text(json.dumps(value, ensure_ascii=False, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> EvaluationResult:
        """Read what ``save`` wrote; raises EvaluationError for anything else."""
        try:
            value = json.loads(Path(path).read_text(encoding="utf-8"))
            if value["format"] != FORMAT:
                raise EvaluationError(
                    f"{str(path)!r} has the format {value['format']!r}; this version reads {FORMAT!r}"
                )
            runs = tuple(_read_run(run) for run in value["runs"])
            return cls(tuple(value["models"]), tuple(value["scores"]), runs, _dollars(value["judging"]))
        except (ValueError, KeyError, TypeError) as error:
            raise EvaluationError(f"{str(path)!r} is not a saved result: {error!r}") from error

    def __str__(self) -> str:
        names = ["model", *self.scores, "cost", "median", "errors"]
        rows = [names, *(self._row(model) for model in self.models)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(names))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        judging = "" if self.judging == 0 else f"\njudging: {_shown(self.judging)}"
        failed = [(model, runs[0], len(runs)) for model in self.models if (runs := self.errors(model))]
        told = [f"\n{model}: {n} of its runs failed, first case {run.case}: {run.error}" for model, run, n in failed]
        return "\n".join(lines) + judging + "".join(told)

    def _is_cached(self, model: str) -> bool:
        return any(run.from_cache for run in self.runs if run.model == model)

    def _row(self, model: str) -> list[str]:
        seconds = self.median_s(model)
        return [
            model,
            *(str(self.mean(model, score)) for score in self.scores),
            _shown(self.cost(model)),
            f"{seconds:.2f} s" if seconds is not None else "from cache" if self._is_cached(model) else "none",
            str(len(self.errors(model))),
        ]


def _read_run(value: dict[str, Any]) -> CaseRun:
    value["cost"] = _dollars(value["cost"])
    return CaseRun(**value)


def _dollars(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)


def _shown(usd: Decimal | None) -> str:
    return "unknown" if usd is None else f"${usd:.6f}"
