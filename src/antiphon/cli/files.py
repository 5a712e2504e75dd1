"""``antiphon files``: upload, list, show, download and delete files of an API."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import openai
from cyclopts import App, Parameter
from openai.types import FileObject

from antiphon.cli.connection import Server
from antiphon.cli.output import print_json
from antiphon.cli.tables import print_table
from antiphon.errors import AntiphonError

Purpose = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]
Json = Annotated[bool, Parameter(negative="", help="Print JSON, one object a line.")]
_PAGE = 10_000

app = App(name="files", help="Keep files at an API, for its batches and for other requests: those of your key alone.")


@app.command(name="list")
def list_files(
    *,
    purpose: Annotated[str | None, Parameter(help="Only files of this purpose.")] = None,
    json: Json = False,
    server: Server | None = None,
) -> None:
    """List files, newest first."""
    with (server or Server()).client() as client:
        found: dict[str, FileObject] = {}
        for file in client.files.list(limit=_PAGE, purpose=purpose or openai.omit):
            if file.id in found:
                # A server that has no pages gives the same one for ever.
                break
            found[file.id] = file
    if json:
        for file in found.values():
            print_json(file.to_dict())
        return
    rows = [(file.id, file.filename, file.purpose, when(file.created_at), f"{file.bytes:,}") for file in found.values()]
    print_table(("id", "name", "purpose", "created"), ("bytes",), rows)


@app.command
def upload(
    path: Annotated[Path, Parameter(help="The file to upload.")],
    *,
    purpose: Annotated[Purpose, Parameter(help="What the file is for.")] = "user_data",
    server: Server | None = None,
) -> None:
    """Upload a file and print its id."""
    if not path.is_file():
        raise AntiphonError(f"there is no file {str(path)!r}")
    with (server or Server()).client() as client:
        print(client.files.create(file=path, purpose=purpose).id)


@app.command
def show(file_id: str, *, server: Server | None = None) -> None:
    """Show a file as JSON."""
    with (server or Server()).client() as client:
        print_json(client.files.retrieve(file_id).to_dict())


@app.command
def download(
    file_id: str,
    *,
    output: Annotated[Path | None, Parameter(help="Where to write it. [default: standard output]")] = None,
    server: Server | None = None,
) -> None:
    """Write the content of a file."""
    with (server or Server()).client() as client, client.files.with_streaming_response.content(file_id) as answer:
        if output is not None:
            answer.stream_to_file(output)
            return
        for piece in answer.iter_bytes():
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()


@app.command
def delete(*file_ids: str, server: Server | None = None) -> None:
    """Delete files."""
    if not file_ids:
        raise AntiphonError("no file named", hint="antiphon files delete FILE-ID")
    with (server or Server()).client() as client:
        for file_id in file_ids:
            client.files.delete(file_id)
            print(f"deleted {file_id}", file=sys.stderr)


def when(seconds: int | None) -> str:
    """Return a time for people, in UTC."""
    return "" if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"
