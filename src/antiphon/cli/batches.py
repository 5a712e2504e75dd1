"""``antiphon batches``: start, list, show and cancel batches of an API, and fetch what they answered."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from antiphon.cli.connection import Server
from antiphon.cli.files import Json, download, when
from antiphon.cli.output import print_json
from antiphon.cli.tables import print_table
from antiphon.errors import AntiphonError

Endpoint = Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"]

app = App(name="batches", help="Answer a file of requests at half the price, while the server has nothing else to do.")


@app.command
def start(
    path: Annotated[Path, Parameter(help="A file of requests, one JSON object a line.")],
    *,
    endpoint: Annotated[Endpoint, Parameter(help="What all the requests are for.")] = "/v1/chat/completions",
    server: Server | None = None,
) -> None:
    """Upload a file of requests, start a batch of them, and print its id."""
    if not path.is_file():
        raise AntiphonError(f"there is no file {str(path)!r}")
    with (server or Server()).client() as client:
        file = client.files.create(file=path, purpose="batch")
        made = client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h")
    print(made.id)


@app.command(name="list")
def list_batches(
    *,
    limit: Annotated[int, Parameter(help="At most so many, 1 to 100.")] = 20,
    json: Json = False,
    server: Server | None = None,
) -> None:
    """List batches, newest first."""
    with (server or Server()).client() as client:
        found = client.batches.list(limit=limit).data
    if json:
        for batch in found:
            print_json(batch.to_dict())
        return
    rows: list[tuple[str, ...]] = []
    for batch in found:
        counts = batch.request_counts
        figures = (counts.total, counts.completed, counts.failed) if counts is not None else (0, 0, 0)
        rows.append(
            (batch.id, batch.status, batch.endpoint, when(batch.created_at), *(f"{number:,}" for number in figures))
        )
    print_table(("id", "status", "endpoint", "created"), ("requests", "completed", "failed"), rows)


@app.command
def show(batch_id: str, *, server: Server | None = None) -> None:
    """Show a batch as JSON."""
    with (server or Server()).client() as client:
        print_json(client.batches.retrieve(batch_id).to_dict())


@app.command
def cancel(batch_id: str, *, server: Server | None = None) -> None:
    """Cancel a batch; what is finished is kept."""
    with (server or Server()).client() as client:
        print(f"{batch_id} is {client.batches.cancel(batch_id).status}", file=sys.stderr)


@app.command(name="download")
def download_answers(
    batch_id: str,
    *,
    errors: Annotated[bool, Parameter(negative="", help="The requests that failed, in place of the answers.")] = False,
    output: Annotated[Path | None, Parameter(help="Where to write it. [default: standard output]")] = None,
    server: Server | None = None,
) -> None:
    """Write the answers of a batch that is over, one JSON object a line."""
    with (server or Server()).client() as client:
        batch = client.batches.retrieve(batch_id)
    file_id = batch.error_file_id if errors else batch.output_file_id
    if file_id is None:
        what = "failed requests" if errors else "answers"
        raise AntiphonError(f"batch {batch_id} is {batch.status} and has no file of {what}")
    download(file_id, output=output, server=server)
