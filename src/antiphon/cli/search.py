"""``antiphon search``: index a folder, and ask it."""

import hashlib
import json as jsonlib
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, cast

from cyclopts import Parameter
from rich.console import Console
from rich.progress import Progress

from antiphon.cli.connection import Server, dollars
from antiphon.cli.output import print_json
from antiphon.config import home_directory
from antiphon.errors import AntiphonError
from antiphon.toolkit.chat.reply import TruncatedAnswerWarning
from antiphon.toolkit.clients import DEFAULT_MODEL
from antiphon.toolkit.embeddings.embedder import DEFAULT_EMBEDDING_MODEL
from antiphon.toolkit.index import CitedAnswer, Hit, Index, UpdateReport, read_folder
from antiphon.toolkit.index.index import Mode

_LIMIT = 5
_MAX_TOKENS = 400


def search(
    folder: Annotated[Path, Parameter(help="Folder of texts.")],
    /,
    *question: Annotated[str, Parameter(help="Search query. Without it, only the index is updated.")],
    answer: Annotated[
        bool, Parameter(negative="", help="Let a model answer from the results, with citations.")
    ] = False,
    limit: Annotated[int | None, Parameter(help=f"Number of chunks to return. [default: {_LIMIT}]")] = None,
    mode: Annotated[Mode | None, Parameter(help="Rank by meaning, by words, or both. [default: hybrid]")] = None,
    where: Annotated[str | None, Parameter(help='Filter, as JSON: \'{"folder": "howto"}\'.')] = None,
    model: Annotated[
        str | None, Parameter(help=f"With --answer: the model that answers. [default: {DEFAULT_MODEL}]")
    ] = None,
    max_tokens: Annotated[
        int | None, Parameter(help=f"With --answer: its maximum length, in tokens. [default: {_MAX_TOKENS}]")
    ] = None,
    embedding_model: Annotated[str, Parameter(help="Model that embeds.")] = DEFAULT_EMBEDDING_MODEL,
    index: Annotated[
        Path | None, Parameter(help="File of the index; one per folder and model in ANTIPHON_HOME if not given.")
    ] = None,
    json: Annotated[bool, Parameter(negative="", help="Print the result as one JSON object.")] = False,
    server: Server | None = None,
) -> int:
    """Index a folder of texts, and search it by meaning and by words, or ask it.

    The folder's index is brought up to date first; only what changed is embedded. Exit status 3 if the answer was cut at the
    token limit.
    """
    asked = " ".join(question)
    _require_use(
        {"--answer": answer or None, "--limit": limit, "--mode": mode, "--where": where},
        "without a question",
        "write the question after the folder",
        is_used=bool(asked),
    )
    _require_use({"--model": model, "--max-tokens": max_tokens}, "without --answer", "add --answer", is_used=answer)
    limit, mode = _LIMIT if limit is None else limit, mode or "hybrid"
    path = index or _index_path(folder, embedding_model)
    with (server or Server()).client() as client, Index(path, model=embedding_model, client=client) as opened:
        report = _update(opened, folder)
        if not asked:
            _show_report(report, opened, path, as_json=json)
            return 0
        if not answer:
            _show_hits(opened.search(asked, limit=limit, where=_filter(where), mode=mode), json)
            return 0
        with warnings.catch_warnings():
            # Said below, in the words of the command line.
            warnings.simplefilter("ignore", TruncatedAnswerWarning)
            made = opened.answer(
                asked,
                model=model or DEFAULT_MODEL,
                num_sources=limit,
                where=_filter(where),
                mode=mode,
                max_completion_tokens=_MAX_TOKENS if max_tokens is None else max_tokens,
            )
        _show_answer(made, json)
    return _finish(made)


def _require_use(options: Mapping[str, object], why: str, hint: str, *, is_used: bool) -> None:
    """Raise AntiphonError for an option that is given and would do nothing."""
    given = next((name for name, value in options.items() if value is not None), None)
    if given is not None and not is_used:
        raise AntiphonError(f"{given} {why}", hint=hint)


def _index_path(folder: Path, model: str) -> Path:
    name = hashlib.sha256(f"{folder.resolve()}\0{model}".encode()).hexdigest()[:12]
    return home_directory() / "indexes" / f"{folder.resolve().name}-{name}.sqlite"


def _update(opened: Index, folder: Path) -> UpdateReport:
    # Indexing reports its progress only where it takes time and a person looks.
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(f"indexing {folder}", total=None)
        return opened.update(
            read_folder(folder),
            delete_missing=True,
            on_progress=lambda done, total: bar.update(task, completed=done, total=total),
        )


def _filter(where: str | None) -> dict[str, Any] | None:
    if where is None:
        return None
    try:
        decoded = jsonlib.loads(where)
    except ValueError as error:
        raise AntiphonError(
            f"--where is not JSON: {error}", hint='for example: --where \'{"suffix": ".md"}\''
        ) from error
    if not isinstance(decoded, dict):
        raise AntiphonError(
            f"--where must be a JSON object, not {where!r}", hint='for example: --where \'{"suffix": ".md"}\''
        )
    return cast("dict[str, Any]", decoded)


def _show_report(report: UpdateReport, opened: Index, path: Path, *, as_json: bool) -> None:
    held = opened.statistics()
    if as_json:
        print_json({"index": path, "update": report, "statistics": held})
        return
    print(f"{held.num_documents} documents, {held.num_chunks} chunks in {path}")
    print(
        f"{report.num_added} added, {report.num_changed} changed, {report.num_deleted} deleted, {report.num_unchanged} unchanged; "
        f"{report.num_embedded} chunks embedded, {report.usage.total_tokens} tokens, {dollars(report.cost)}, {report.seconds:.1f} s"
    )


def _show_hits(hits: list[Hit], as_json: bool) -> None:
    if as_json:
        print_json({"hits": hits})
        return
    for number, hit in enumerate(hits, 1):
        print(f"{number}. {hit.document}:{hit.start}-{hit.end}  {hit.title}")
        print("   " + " ".join(hit.text.split())[:300])


def _show_answer(made: CitedAnswer, as_json: bool) -> None:
    if as_json:
        print_json(made)
        return
    print(made.text)
    print()
    for number, hit in enumerate(made.sources, 1):
        mark = "*" if any(citation.number == number for citation in made.citations) else " "
        print(f"{mark}[{number}] {hit.document}:{hit.start}-{hit.end}  {hit.title}")
    if not made.citations:
        print("The model cited none of these sources: check the answer against them.", file=sys.stderr)
    if made.saving is not None:
        saving = made.saving
        print(
            f"{saving.prompt_tokens} prompt tokens; the whole documents would be about "
            f"{saving.whole_documents_tokens_estimate} (estimate)",
            file=sys.stderr,
        )


def _finish(made: CitedAnswer) -> int:
    if not made.reply.is_truncated:
        return 0
    print("antiphon: the answer was cut at the token limit - raise --max-tokens", file=sys.stderr)
    return 3
