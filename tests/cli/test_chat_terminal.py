"""``antiphon chat`` at a real terminal (a pty): line editing, Markdown, Ctrl-C, commands."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from tests.serving import Running, running
from tests.waiting import PATIENCE_S, wait_until

import antiphon
from antiphon.backends.scripted.backend import ScriptedBackend
from antiphon.backends.scripted.script import Pattern, Reply, Script

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b\][^\x07]*\x07|[\x01\x02]")

# A shell that runs the tests in the background has SIGINT ignored, and children inherit that.
PROGRAM = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from antiphon.cli import main
main()
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Running]:
    replies = (
        Reply(
            match=Pattern(last_message="markdown"),
            text="# Title\n\n- **bold** item\n\n```python\nx = 1\n\ny = 2\n```\n",
        ),
        Reply(match=Pattern(last_message="hang"), text="one two three", fault="hang", after=2),
    )
    script = Script(models=("gpt-4o-mini", "gpt-4o"), replies=replies, context_length=2000)
    with running(ScriptedBackend(script), tmp_path_factory.mktemp("home")) as up:
        yield up


class Terminal:
    """A program at a terminal of its own."""

    def __init__(self, url: str, home: Path, *words: str) -> None:
        self._main, other = pty.openpty()
        environment = {
            **os.environ,
            "PYTHONPATH": str(Path(antiphon.__file__).parents[1]),
            "OPENAI_BASE_URL": url,
            "OPENAI_API_KEY": "any",
            "ANTIPHON_HOME": str(home),
            "TERM": "xterm",
            "INPUTRC": os.devnull,
        }
        command = [sys.executable, "-c", PROGRAM, "chat", *words]
        self.process = subprocess.Popen(
            command,
            stdin=other,
            stdout=other,
            stderr=other,
            env=environment,
            cwd=home,
            start_new_session=True,
        )
        os.close(other)
        self._said = ""
        self._read = 0

    def type(self, text: str) -> None:
        os.write(self._main, text.encode())

    def expect(self, pattern: str) -> str:
        """Read until what was not read yet matches, and return it; escape sequences are left out."""

        def is_there() -> bool:
            while select.select([self._main], [], [], 0)[0]:
                try:
                    self._said += os.read(self._main, 65536).decode(errors="replace")
                except OSError:
                    break
            return re.search(pattern, self._text[self._read :], re.DOTALL) is not None

        try:
            wait_until(is_there)
        except AssertionError:
            pytest.fail(f"no {pattern!r} in {self._text[self._read :]!r}")
        found = re.search(pattern, self._text[self._read :], re.DOTALL)
        assert found is not None
        self._read += found.end()
        return found[0]

    @property
    def _text(self) -> str:
        return ESCAPES.sub("", self._said).replace("\r", "")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._main)


@pytest.fixture
def terminal(server: Running, tmp_path: Path) -> Generator[Terminal]:
    opened = Terminal(server.url, tmp_path)
    opened.expect("/help lists the commands.*> ")
    yield opened
    opened.close()


def test_lines_are_edited_and_earlier_ones_come_back(terminal: Terminal) -> None:
    """Backspace and arrows work; the arrow up brings the last message."""
    terminal.type("helo\x1b[Dl\n")  # the cursor goes one to the left, and the second l comes in
    terminal.expect(r"hello\s.*hello\s+> $")
    terminal.type("\x1b[A again\n")
    terminal.expect(r"hello again\s.*hello again\s+> $")


def test_markdown_is_rendered(terminal: Terminal) -> None:
    """Without the marks; a block of code stays whole across its empty line."""
    terminal.type("markdown\n")
    shown = terminal.expect(r"Title.*• bold item.*y = 2\s+> $")
    # Rendered blocks are centred, in bullets and in a box; while a block grows it is shown as it comes.
    lines = [line.rstrip() for line in shown.splitlines()]
    assert " • bold item" in lines
    assert lines.index(" x = 1") + 2 == lines.index(" y = 2")


def test_control_c_stops_an_answer_and_keeps_what_came(terminal: Terminal, tmp_path: Path) -> None:
    """The conversation goes on; at the prompt Ctrl-C clears the line; Ctrl-D ends."""
    terminal.type("hang\n")
    terminal.expect("two")
    os.killpg(terminal.process.pid, signal.SIGINT)
    terminal.expect(r"\[stopped\]\s+> $")
    terminal.type(f"/save {tmp_path}/c.json\n")
    terminal.expect("wrote.*> ")
    assert "one two" in (tmp_path / "c.json").read_text()
    terminal.type("nothing")
    terminal.expect("nothing")
    os.killpg(terminal.process.pid, signal.SIGINT)
    terminal.expect("> $")
    terminal.type("\x04")
    assert terminal.process.wait(PATIENCE_S) == 0


def test_commands_work_on_the_conversation(terminal: Terminal, tmp_path: Path) -> None:
    """Undo, model, load, cost and tokens; what is wrong is said, and the talk goes on."""
    terminal.type("first\n")
    terminal.expect(r"first\s.*first\s+> $")
    terminal.type(f"/save {tmp_path}/c.json\n")
    terminal.expect("> $")
    for command, told in (
        ("/model gpt-4o", "> $"),
        ("/tokens", "[0-9]+ tokens"),
        ("/cost", r"\$0\.|cost unknown"),
        ("/undo", "> $"),
        ("/undo", "There is no turn to undo"),
        (f"/load {tmp_path}/c.json", "> $"),
        ("/load missing.json", "missing.json"),
        ("/what", "/undo +forget the last"),
    ):
        terminal.type(f"{command}\n")
        terminal.expect(told)
    terminal.type('"""two\nlines"""\n')
    terminal.expect("two\nlines|two lines")


def test_two_hundred_messages_stay_within_a_small_context(server: Running, tmp_path: Path) -> None:
    """The chat leaves old turns out; none is refused."""
    lines = "".join(f"message number {number} has some words in it\n" for number in range(200))
    environment = {**os.environ, "PYTHONPATH": str(Path(antiphon.__file__).parents[1]), "ANTIPHON_HOME": str(tmp_path)}
    words = [sys.executable, "-c", "from antiphon.cli import main; main()", "chat", "--base-url", server.url]
    done = subprocess.run(words, input=lines, capture_output=True, text=True, env=environment, check=True)
    assert (done.stdout, done.stderr) == (lines, "")
