"""How an answer is scored: from 0 (wrong) to 1 (right)."""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from pydantic import BaseModel, Field
from pydantic_core import to_jsonable_python

from antiphon.toolkit.clients import DEFAULT_MODEL, Client
from antiphon.toolkit.errors import EvaluationError
from antiphon.toolkit.evaluation.cases import Case
from antiphon.toolkit.index.answers import CitedAnswer
from antiphon.toolkit.structured.extract import aextract

# Gets the case, the answer (a parsed value, or the text) and the options of the run; True and False are 1 and 0.
Scorer = Callable[[Case, Any, Mapping[str, Any]], float | bool | Awaitable[float | bool]]


@dataclass(frozen=True, slots=True)
class Score:
    """A scorer by the name that results show."""

    name: str
    scorer: Scorer


def equals(field: str | None = None) -> Score:
    """Score 1 if the answer, or its ``field``, equals what is expected."""
    return Score(
        _named("equals", field),
        lambda case, answer, _: bool(_part(plain(answer), field) == _part(plain(case.expected), field)),
    )


def contains() -> Score:
    """Score 1 if the answer's text has the expected text, whatever the case of its letters."""
    return Score("contains", lambda case, answer, _: str(case.expected).casefold() in str(answer).casefold())


def close(field: str | None = None, tolerance: float = 0.0) -> Score:
    """Score 1 if the number differs from what is expected by at most ``tolerance``; what is not a number scores 0."""

    def scorer(case: Case, answer: Any, _: Mapping[str, Any]) -> bool:
        try:
            given, expected = float(_part(plain(answer), field)), float(_part(plain(case.expected), field))
        except (TypeError, ValueError):
            return False
        return math.isclose(given, expected, rel_tol=0.0, abs_tol=tolerance + 1e-12)

    return Score(_named("close", field), scorer)


class Verdict(BaseModel):
    """What a judge says. The reason comes first, so that the verdict follows from it."""

    reason: str = Field(description="Why, in one sentence.")
    passes: bool


def judge(question: str, *, model: str = DEFAULT_MODEL, client: Client | None = None) -> Score:
    """Score 1 if ``model`` answers ``question`` about the answer with yes.

    ``client`` None is the environment's. The judge sees the input, what is expected, and the answer. What it costs is in the result's ``judging``, not in the cost
    of the model that is judged.
    """

    async def scorer(case: Case, answer: Any, options: Mapping[str, Any]) -> bool:
        told = {"input": case.input, "expected": case.expected, "answer": plain(answer)}
        known = {name: value for name, value in told.items() if value is not None}
        instructions = f"You judge the answer of another model. {question} Judge by the texts alone."
        return await passes(instructions, known, model, client, options)

    return Score(f"judge: {question}", scorer)


async def passes(
    instructions: str, told: Mapping[str, Any], model: str, client: Client | None, options: Mapping[str, Any]
) -> bool:
    """Ask ``model`` for its verdict on what it is ``told``."""
    asked: dict[str, Any] = {**options, "model": model}
    if client is not None:
        asked["client"] = client
    text = json.dumps(told, ensure_ascii=False)
    return (await aextract(Verdict, text, instructions=instructions, **asked)).parsed.passes


def plain(value: Any) -> Any:
    """Return a value as JSON has it: models and dataclasses as objects, a cited answer as its text."""
    return value.text if isinstance(value, CitedAnswer) else to_jsonable_python(value)


def checked(name: str, given: float | bool) -> float:
    """Return a score as a number; raises EvaluationError if it is not from 0 to 1."""
    value = float(given)
    if not 0 <= value <= 1:
        raise EvaluationError(f"The score {name!r} is {given!r}, and scores are from 0 to 1")
    return value


def _part(value: Any, field: str | None) -> Any:
    if field is None:
        return value
    return cast("Mapping[str, Any]", value).get(field) if isinstance(value, Mapping) else None


def _named(kind: str, field: str | None) -> str:
    return kind if field is None else f"{kind} {field}"
