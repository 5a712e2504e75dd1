"""How answers from an index are scored: whether the right documents were found, and whether they say what is claimed.

The measures are those of the literature on retrieval: recall at k, and the support of each statement by what it cites
(Rashkin et al. 2021, "Measuring attribution in natural language generation models").
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from antiphon.toolkit.clients import DEFAULT_MODEL, Client
from antiphon.toolkit.errors import EvaluationError
from antiphon.toolkit.evaluation.cases import Case
from antiphon.toolkit.evaluation.scores import Score, passes, plain
from antiphon.toolkit.index.answers import MARK, CitedAnswer, cited_numbers
from antiphon.toolkit.index.documents import Hit

_SUPPORTED = (
    "You check one statement against sources. It passes only if the sources alone say what it says. "
    "What is true and not in the sources does not pass."
)
_FAITHFUL = (
    "You check an answer against sources. It passes only if the sources say everything that the answer states. "
    "What is true and not in the sources does not pass. That the sources do not say something may be stated."
)
# A mark after the end of a sentence belongs to that sentence: "It is so. [1]"
_MARK_BEHIND = re.compile(rf"([.!?。！？]+)((?:\s*{MARK.pattern})+)")  # noqa: RUF001 - full stops of other scripts
_ENDS = re.compile(r"(?<=[.!?])[ \t]+(?=[^a-z\s])|(?<=[。！？])|\n+")  # noqa: RUF001 - as above


def recall_at(limit: int, *, documents: str = "documents") -> Score:
    """Score the share of a case's documents that are among the first ``limit`` chunks which were found.

    The task returns the hits of ``Index.search``, or what ``Index.answer`` returns. A case names the ids of its documents:
    ``{"input": ..., "documents": ["a.md"]}``. Raises EvaluationError for a case or an answer without them.
    """
    if limit < 1:
        raise EvaluationError(f"recall_at needs a limit of at least 1, not {limit!r}")

    def scorer(case: Case, answer: Any, _: Mapping[str, Any]) -> float:
        told = case.metadata.get(documents)
        wanted = {told} if isinstance(told, str) else set(cast("Sequence[str]", told or ()))
        if not wanted:
            raise EvaluationError(
                f"The case {case.id!r} does not say which documents should be found",
                hint=f'add {{"{documents}": ["ID", ...]}} to its line',
            )
        found = {hit.document for hit in _hits(answer)[:limit]}
        return len(wanted & found) / len(wanted)

    return Score(f"recall at {limit}", scorer)


def cited(*, model: str | None = DEFAULT_MODEL, client: Client | None = None) -> Score:
    """Score the share of an answer's statements that cite sources, which exist and, as ``model`` judges, support them.

    ``client`` None is the environment's. ``model`` None asks nobody: citations then only have to exist. The task returns what ``Index.answer`` returns. A
    statement is a sentence or a line; its marks may follow it.
    """

    async def scorer(_: Case, answer: Any, options: Mapping[str, Any]) -> float:
        given = _cited_answer(answer)
        passed: list[bool] = []
        for statement in split_statements(given.text):
            named = _named(statement, given.sources)
            if named and model is not None:
                told = {"sources": named, "statement": MARK.sub("", statement).strip()}
                passed.append(await passes(_SUPPORTED, told, model, client, options))
            else:
                passed.append(bool(named))
        return sum(passed) / len(passed) if passed else 0.0

    return Score("cited", scorer)


def faithful(*, model: str = DEFAULT_MODEL, client: Client | None = None) -> Score:
    """Score 1 if ``model`` finds nothing in the answer that its sources do not say.

    ``client`` None is the environment's. The sources are those of ``Index.answer``; of any other answer, such as a summary, the case's input is the source.
    """

    async def scorer(case: Case, answer: Any, options: Mapping[str, Any]) -> bool:
        sources = [hit.text for hit in answer.sources] if isinstance(answer, CitedAnswer) else [case.input]
        return await passes(_FAITHFUL, {"sources": sources, "answer": plain(answer)}, model, client, options)

    return Score("faithful", scorer)


def split_statements(text: str) -> list[str]:
    """Cut a text into its sentences and lines, each with its marks; what has no words is left out."""
    ahead = _MARK_BEHIND.sub(r"\2\1 ", text)
    parts = (part.strip() for part in _ENDS.split(ahead))
    return [part for part in parts if re.search(r"\w", MARK.sub("", part))]


def _named(statement: str, sources: Sequence[Hit]) -> list[str]:
    """Return the texts that a statement cites; none if it cites one that there is not."""
    numbers = cited_numbers(statement)
    is_known = all(1 <= number <= len(sources) for number in numbers)
    return [sources[number - 1].text for number in numbers] if is_known else []


def _hits(answer: Any) -> Sequence[Hit]:
    if isinstance(answer, CitedAnswer):
        return answer.sources
    hits, is_sequence = cast("Sequence[Hit]", answer), type(answer) in {list, tuple}
    if is_sequence and all(type(hit) is Hit for hit in hits):
        return hits
    raise EvaluationError(
        f"recall_at needs the hits of a search, not {type(answer).__name__}",
        hint="return index.search(...) or index.answer(...) from the task",
    )


def _cited_answer(answer: Any) -> CitedAnswer:
    if isinstance(answer, CitedAnswer):
        return answer
    raise EvaluationError(
        f"cited needs an answer with sources, not {type(answer).__name__}",
        hint="return index.answer(...) from the task",
    )
