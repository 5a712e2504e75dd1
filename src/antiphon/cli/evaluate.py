"""``antiphon eval``: models measured on the cases of a file, and compared with a baseline."""

import tomllib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from string import Template as Placeholders
from typing import Annotated, Any, Literal

import msgspec
from cyclopts import Parameter
from openai import OpenAI
from pydantic import BaseModel

from antiphon.cli.connection import Server
from antiphon.cli.fields import shape_of
from antiphon.cli.output import print_json
from antiphon.config import home_directory
from antiphon.errors import AntiphonError
from antiphon.toolkit.calls.response_cache import ResponseCache
from antiphon.toolkit.chat.chat import Chat
from antiphon.toolkit.chat.reply import Reply
from antiphon.toolkit.costs.budget import Budget
from antiphon.toolkit.costs.choose import choose_model
from antiphon.toolkit.embeddings.embedder import DEFAULT_EMBEDDING_MODEL
from antiphon.toolkit.evaluation.cases import Case
from antiphon.toolkit.evaluation.evaluation import Evaluation
from antiphon.toolkit.evaluation.index_scores import cited, faithful, recall_at
from antiphon.toolkit.evaluation.result import EvaluationResult
from antiphon.toolkit.evaluation.scores import Score, close, contains, equals, judge
from antiphon.toolkit.index import CitedAnswer, Index
from antiphon.toolkit.structured.extract import extract


class ScoreEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One ``[[scores]]`` of the file; None is what the score takes by itself."""

    kind: Literal["equals", "close", "contains", "judge", "recall", "cited", "faithful"]
    field: str | None = None
    tolerance: float | None = None
    limit: int | None = None
    question: str | None = None
    model: str | None = None

    def score(self) -> Score:
        """Return the score; raises AntiphonError for a key that its kind does not take."""
        make, taken = _SCORES[self.kind]
        given = {name: value for name in self.__struct_fields__[1:] if (value := getattr(self, name)) is not None}
        if unknown := given.keys() - taken:
            takes = f"it takes {', '.join(sorted(taken))}" if taken else "it takes no other key"
            raise AntiphonError(f"the score {self.kind!r} takes no {min(unknown)!r}", hint=takes)
        if self.kind == "judge" and not self.question:
            raise AntiphonError("a judge without a question", hint='write question = "Is the answer polite?"')
        if self.kind == "recall":
            given.setdefault("limit", _RECALL_LIMIT)
        return make(**given)


_RECALL_LIMIT = _NUM_SOURCES = 5
_SCORES: dict[str, tuple[Callable[..., Score], frozenset[str]]] = {
    "equals": (equals, frozenset({"field"})),
    "close": (close, frozenset({"field", "tolerance"})),
    "contains": (contains, frozenset()),
    "judge": (judge, frozenset({"question", "model"})),
    "recall": (recall_at, frozenset({"limit"})),
    "cited": (cited, frozenset({"model"})),
    "faithful": (faithful, frozenset({"model"})),
}


class EvaluationFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What ``antiphon eval`` reads.

    ``prompt`` has ``$input``; ``schema`` is as for `antiphon ask --schema`. With ``index``, the file of an index, questions
    are answered from ``num_sources`` of its chunks.
    """

    cases: str
    scores: tuple[ScoreEntry, ...]
    prompt: str = "$input"
    system: str = ""
    schema: str = ""
    index: str = ""
    embedding_model: str | None = None
    num_sources: int | None = None


def evaluate(
    file: Annotated[Path, Parameter(help="TOML file that names cases, prompt and scores.")],
    /,
    *,
    model: Annotated[list[str], Parameter(help="Model to measure; repeat it.", negative="")],
    repeat: Annotated[int, Parameter(help="How often each case is asked.")] = 1,
    baseline: Annotated[Path | None, Parameter(help="Result of an earlier run to compare with.")] = None,
    out: Annotated[Path | None, Parameter(help="Write the result here, to be a baseline.")] = None,
    at_least: Annotated[float | None, Parameter(help="Name the cheapest model with this mean, 0 to 1.")] = None,
    usd: Annotated[float | None, Parameter(help="Stop before the run costs more than this.")] = None,
    cache: Annotated[bool, Parameter(help="Answer what was asked before from disk.")] = True,
    json: Annotated[bool, Parameter(negative="", help="Print means and costs as one JSON object.")] = False,
    server: Server | None = None,
) -> int:
    """Ask models the cases of a file, score the answers, and print means with 95 % intervals, cost and latency.

    Exit status 3 if a mean dropped since the baseline by more than noise explains.
    """
    described = _read(file)
    # Before anything is asked: what is wrong with these must not be found after the answers were paid for.
    before = None if baseline is None else EvaluationResult.load(baseline)
    if out is not None and not out.parent.is_dir():
        raise AntiphonError(f"there is no folder {out.parent} for --out", hint="make it, or name another file")
    if at_least is not None and not 0 <= at_least <= 1:
        raise AntiphonError(f"--at-least is {at_least:g}, and scores are from 0 to 1")
    options: dict[str, Any] = {} if usd is None else {"budget": Budget(usd=usd)}
    with (server or Server()).client() as client, _index(file, described, client) as index:
        suite = Evaluation(
            file.parent / described.cases,
            task=_task(described) if index is None else _task_of(index, described),
            scores=[entry.score() for entry in described.scores],
        )
        options["client"] = client
        if not cache:
            result = suite.run(model, repeat=repeat, **options)
        else:
            with ResponseCache(home_directory() / "evaluations.sqlite") as kept:
                result = suite.run(model, repeat=repeat, cache=kept, **options)
    if out is not None:
        result.save(out)
    _print(result, as_json=json)
    regressions = [] if before is None else result.regressions(before)
    for regression in regressions:
        print(f"worse: {regression}")
    if at_least is not None:
        print(choose_model(result, at_least=at_least))
    return 3 if regressions else 0


def _read(file: Path) -> EvaluationFile:
    try:
        return msgspec.convert(tomllib.loads(file.read_text(encoding="utf-8")), EvaluationFile)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise AntiphonError(f"{file} does not describe an evaluation: {error}") from error


def _task(described: EvaluationFile) -> Any:
    shape = shape_of(described.schema) if described.schema else None
    if isinstance(shape, dict):
        raise AntiphonError("a JSON Schema is not read here", hint="name fields: schema = 'sentiment, score int'")

    def task(case: Case, **options: Any) -> Reply[Any]:
        text = Placeholders(described.prompt).safe_substitute(input=case.input)
        if shape is not None:
            named: type[BaseModel] = shape
            instructions = {"instructions": described.system} if described.system else {}
            return extract(named, text, **instructions, **options)
        return Chat(described.system or None, temperature=0, **options).send(text)

    return task


def _index(file: Path, described: EvaluationFile, client: OpenAI) -> AbstractContextManager[Index | None]:
    if not described.index:
        if described.embedding_model is not None or described.num_sources is not None:
            raise AntiphonError("embedding_model and num_sources belong to an index", hint='write index = "kb.sqlite"')
        return nullcontext()
    if described.schema or described.system:
        raise AntiphonError("an index answers in text, in its own words", hint="leave out schema and system, or index")
    path = file.parent / described.index
    if not path.is_file():
        raise AntiphonError(
            f"there is no index {path}", hint=f"make it first: antiphon search FOLDER --index {described.index}"
        )
    return Index(path, model=described.embedding_model or DEFAULT_EMBEDDING_MODEL, client=client)


def _task_of(index: Index, described: EvaluationFile) -> Any:
    num_sources = _NUM_SOURCES if described.num_sources is None else described.num_sources

    def task(case: Case, **options: Any) -> CitedAnswer:
        options.pop("client")
        question = Placeholders(described.prompt).safe_substitute(input=case.input)
        return index.answer(question, num_sources=num_sources, **options)

    return task


def _print(result: EvaluationResult, *, as_json: bool) -> None:
    if not as_json:
        print(result)
        return
    models = {
        model: {
            "scores": {score: result.mean(model, score) for score in result.scores},
            "cost_usd": result.cost(model),
            "median_s": result.median_s(model),
            "num_errors": len(result.errors(model)),
        }
        for model in result.models
    }
    print_json({"models": models, "judging_usd": result.judging})
