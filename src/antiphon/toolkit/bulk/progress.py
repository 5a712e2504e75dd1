"""The progress bar of a run: how far, how fast, what it costs, how long it will take."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

from antiphon.toolkit.bulk.report import BulkStatistics


@contextmanager
def bar(*, enabled: bool) -> Generator[Callable[[BulkStatistics], None] | None]:
    """Show a bar on standard error while the block runs, and yield what moves it; None when not ``enabled``."""
    if not enabled:
        yield None
        return
    from rich.console import Console  # noqa: PLC0415 # loaded where a bar is wanted
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as shown:
        task = shown.add_task("waiting for the first answer", total=None)
        yield lambda now: shown.update(task, total=now.num_requests, completed=now.num_done, description=describe(now))


def describe(now: BulkStatistics) -> str:
    """Return the moment in words: ``118/min, 2 failed, 31k tokens, $0.0042, 3:20 left``."""
    parts = [f"{now.requests_per_minute:.0f}/min"] if now.requests_per_minute else []
    if now.num_failed:
        parts.append(f"{now.num_failed} failed")
    if now.num_retries:
        parts.append(f"{now.num_retries} retries")
    parts.append(f"{now.usage.total_tokens / 1000:.1f}k tokens")
    parts.append("cost unknown" if now.cost is None else f"${now.cost:.4f}")
    if now.seconds_left:
        minutes, seconds = divmod(round(now.seconds_left), 60)
        parts.append(f"{minutes}:{seconds:02d} left")
    return ", ".join(parts)
