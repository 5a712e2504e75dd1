"""An answer printed while it streams: as Markdown at a terminal, byte for byte into a pipe."""

import sys
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.markdown import Markdown
from rich.text import Text

from antiphon.toolkit.chat.reply import Event, ReasoningDelta, TextDelta, ToolFinished

_FENCES = ("```", "~~~")


class Printer:
    """Prints pieces of text. With Markdown, a block is shown as plain text until it is complete, and then rendered."""

    def __init__(self, console: Console | None = None, *, markdown: bool | None = None) -> None:
        self._console = console or Console()
        is_rendered = sys.stdout.isatty() if markdown is None else markdown
        self._write: Callable[[str], None] = self._render if is_rendered else self._plain
        self._is_rendered = is_rendered
        self._pending = ""
        self._live: Live | None = None

    def write(self, piece: str) -> None:
        """Print a piece of the answer."""
        self._write(piece)

    def show(self, event: Event) -> None:
        """Print what belongs to an answer: its text; at a terminal, the reasoning; which tools were called, on standard error."""
        match event:
            case TextDelta():
                self.write(event.text)
            case ReasoningDelta() if sys.stderr.isatty():
                print(f"\033[2m{event.text}\033[0m", end="", file=sys.stderr, flush=True)
            case ToolFinished():
                call, outcome = event.result.call, event.result.outcome
                print(f"antiphon: {call.name}({call.arguments}): {outcome}", file=sys.stderr)
            case _:
                pass

    def end(self) -> None:
        """Print what is left, and end the line."""
        if not self._is_rendered:
            print(flush=True)
            return
        self._finish(self._pending)
        self._pending = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and self._is_rendered:
            self.end()

    def _plain(self, piece: str) -> None:
        print(piece, end="", flush=True)

    def _render(self, piece: str) -> None:
        self._pending += piece
        while (end := _block_end(self._pending)) is not None:
            self._finish(self._pending[:end])
            self._pending = self._pending[end:].lstrip("\n")
        if self._pending:
            if self._live is None:
                self._live = Live(console=self._console, transient=True, auto_refresh=False)
                self._live.start()
            self._live.update(Text(self._pending), refresh=True)

    def _finish(self, block: str) -> None:
        if self._live is not None:
            self._live.update(Text(""))
            self._live.stop()
            self._live = None
        if block.strip():
            self._console.print(Markdown(block))


def _block_end(text: str) -> int | None:
    """Return where the first complete block ends: at an empty line outside a fence of code; None if there is none."""
    fence: str | None = None
    position = 0
    for line in text.splitlines(keepends=True):
        stripped = line.strip()
        if fence is None and not stripped and line.endswith("\n") and position:
            return position
        if fence is None and stripped.startswith(_FENCES):
            fence = stripped[:3]
        elif fence is not None and stripped.startswith(fence):
            fence = None
        position += len(line)
    return None
