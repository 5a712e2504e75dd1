"""Runs every ```python example of README and docs, page by page, as a reader would: top to bottom in one session.

An example is followed by what it prints where a ```text block comes right after it. A fence marked ``python no-run`` is
shown, not run: only for code that needs what the tests must not have (a cluster, another company's API).
"""

import contextlib
import io
import os
import re
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<body>.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)


class Example(NamedTuple):
    line: int
    code: str
    prints: str | None


def examples(text: str) -> Iterator[Example]:
    fences = list(FENCE.finditer(text))
    for fence, following in zip_longest(fences, fences[1:]):
        if fence["info"].strip() != "python":
            continue
        output = None
        if following is not None and following["info"].strip() == "text":
            between = text[fence.end() : following.start()]
            output = following["body"] if not between.strip() else None
        yield Example(text.count("\n", 0, fence.start()) + 2, fence["body"], output)


def matches(expected: str, printed: str) -> bool:
    """``...`` in an expected output stands for anything: answers of a model, times."""
    pattern = ".*?".join(re.escape(part) for part in expected.strip().split("..."))
    return re.fullmatch(pattern, printed.strip(), re.DOTALL) is not None


@pytest.mark.model
@pytest.mark.slow
# The default model may not know when to stop; a reader sees a warning then, not an error.
@pytest.mark.filterwarnings("default::antiphon.toolkit.chat.reply.TruncatedAnswerWarning")
@pytest.mark.parametrize("page", [p for p in PAGES if any(examples(p.read_text()))], ids=lambda p: p.stem)
def test_examples_of_a_page_run(page: Path, local_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every example runs as it stands and prints what the page says."""
    monkeypatch.setenv("OPENAI_BASE_URL", local_server)
    monkeypatch.setenv("OPENAI_API_KEY", "local")
    monkeypatch.chdir(tmp_path)
    session: dict[str, object] = {"__name__": "__main__"}
    for example in examples(page.read_text()):
        # Line numbers of a traceback are those of the page.
        code = compile("\n" * (example.line - 1) + example.code, str(page), "exec")
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, session)
        if example.prints is not None:
            assert matches(example.prints, printed.getvalue()), f"{page.name}:{example.line}\n{printed.getvalue()}"
    assert Path.cwd() == tmp_path, "an example changed the directory"
    assert os.environ["OPENAI_BASE_URL"] == local_server


def test_the_runner_sees_what_it_should() -> None:
    """Fences are found with their line and the output that follows directly."""
    text = "a\n```python\nprint(1)\n```\n\n```text\n1\n```\n```python no-run\nx\n```\n```python\ny\n```\nwords\n```text\nz\n```\n"
    assert list(examples(text)) == [Example(3, "print(1)\n", "1\n"), Example(13, "y\n", None)]
    assert matches("a ... c", "a b c\n")
    assert not matches("a", "b")
