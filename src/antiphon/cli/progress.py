"""Progress of a download: a bar in a terminal, elsewhere a line when a file begins."""

from collections.abc import Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TaskID, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bars

from antiphon.models import Progress, ProgressEvent

WORDS = {
    "wait": "Waiting for another process that fetches",
    "download": "Downloading",
    "unpack": "Unpacking",
    "convert": "Converting",
    "verify": "Verifying",
}


@contextmanager
def download_progress(console: Console) -> Generator[Progress]:
    """Return a callback for the store that shows its progress on ``console``."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        tasks: dict[tuple[str, str], TaskID] = {}

        def show(event: ProgressEvent) -> None:
            key = (event.file, event.phase)
            if key not in tasks:
                words = f"{WORDS[event.phase]} {event.file}"
                tasks[key] = bars.add_task(words, total=event.total_bytes)
                if not console.is_terminal:
                    console.print(words, highlight=False, soft_wrap=True)
            bars.update(tasks[key], completed=event.done_bytes, total=event.total_bytes)

        yield show
