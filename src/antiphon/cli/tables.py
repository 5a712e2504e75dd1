"""Tables for people; no cell is ever truncated."""

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

_UNBOUNDED = 10_000


def print_table(names: Sequence[str], figures: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows under headings: columns of text, then columns of figures, which end at the right.

    A row that is wider than the terminal wraps: half a name or half a figure would be useless.
    """
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for name in names:
        table.add_column(name, no_wrap=True)
    for figure in figures:
        table.add_column(figure, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))  # not as markup: a name may have brackets
    console = Console()
    unbounded = console.options.update(max_width=_UNBOUNDED)
    console.width = max(console.width, console.measure(table, options=unbounded).maximum)
    console.print(table)
