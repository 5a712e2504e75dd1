"""The cases of an evaluation: what is asked, and what is expected."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from antiphon.toolkit.errors import EvaluationError


@dataclass(frozen=True, slots=True)
class Case:
    """One line of a file of cases: ``{"id": ..., "input": ..., "expected": ...}``; other keys are ``metadata``."""

    id: str
    input: Any
    expected: Any = None
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])


def read_cases(path: str | Path) -> list[Case]:
    """Read a JSONL file; a line without an id has its number as one. Raises EvaluationError, which names the line."""
    cases = list(_read(Path(path)))
    if not cases:
        raise EvaluationError(f"{str(path)!r} has no cases", hint='write one JSON object a line: {"input": ...}')
    ids = [case.id for case in cases]
    if doubles := {id_ for id_ in ids if ids.count(id_) > 1}:
        raise EvaluationError(f"{str(path)!r} has several cases with the ids {sorted(doubles)!r}")
    return cases


def _read(path: Path) -> Iterator[Case]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                value: dict[str, Any] = json.loads(line)
                asked = value.pop("input")
            except (ValueError, KeyError, AttributeError, TypeError) as error:
                hint = 'write one JSON object a line: {"input": ..., "expected": ...}'
                raise EvaluationError(f"{str(path)!r} line {number} is not a case: {error!r}", hint=hint) from error
            yield Case(str(value.pop("id", number)), asked, value.pop("expected", None), value)
