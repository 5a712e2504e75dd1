"""The pages about keys, limits, usage and cost do what they say: commands, configuration and Python, page by page.

They need a server of their own, with the page's first configuration, so their Python is fenced ``python server``.
"""

import asyncio
import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.serving import running
from tests.waiting import PATIENCE_S

from antiphon.accounts import Principal
from antiphon.accounts.database import open_database
from antiphon.accounts.keys import KeyStore
from antiphon.backends.scripted.backend import ScriptedBackend
from antiphon.backends.scripted.script import Script
from antiphon.cli import main
from antiphon.server.configuration import load_configuration

DOCS = Path(__file__).parents[2] / "docs"
FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<body>.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)


def matches(expected: str, printed: str) -> bool:
    """``...`` stands for anything, also across lines; runs of blanks count as one."""
    words = [re.escape(" ".join(part.split())) for part in expected.split("...")]
    return re.fullmatch(r".*?".join(f" ?{word} ?" for word in words), " ".join(printed.split())) is not None


def fences(page: str) -> Iterator[tuple[str, str, str | None]]:
    """Yield the kind of each fence, its text, and the ``text`` fence that follows it directly."""
    found = list(FENCE.finditer((DOCS / page).read_text()))
    for fence, following in zip(found, [*found[1:], None], strict=True):
        prints = following["body"] if following is not None and following["info"] == "text" else None
        yield fence["info"].strip(), fence["body"], prints


def run(command: str) -> tuple[str, str]:
    """Run ``antiphon ...`` and return both outputs."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main(shlex.split(command)[1:])
    assert ended.value.code in {0, None}, err.getvalue()
    return out.getvalue(), err.getvalue()


def play(console: str) -> str | None:
    """Run a console fence and hold it to its outputs; returns the last key that was printed."""
    key = None
    for part in re.split(r"^\$ ", console, flags=re.MULTILINE)[1:]:
        command, _, expected = part.partition("\n")
        out, err = run(command)
        assert matches(expected, err + out), f"{command}\n{err}{out}"
        if out.startswith("sk-antiphon-"):
            key = out.strip()
    return key


def create(home: Path, name: str, *, is_admin: bool = False) -> str:
    async def run_create() -> str:
        engine = await open_database(None, home)
        store = await KeyStore.open(engine, None, home)
        key, _ = await store.create(Principal(name=name, is_admin=is_admin))
        await engine.dispose()
        return key

    return asyncio.run(run_create())


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ANTIPHON_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "220")
    return tmp_path


def play_page(page: str, home: Path, monkeypatch: pytest.MonkeyPatch, session: dict[str, Any]) -> None:
    """Go through a page from top to bottom."""
    config = home / "antiphon.toml"
    config.write_text(next(body for kind, body, _ in fences(page) if kind == "toml"))
    settings = load_configuration(file=config)
    backend = ScriptedBackend(Script(models=("gpt-4o-mini",), embedding_models=("text-embedding-3-small",)))
    with running(backend, home, accounts=settings.accounts, faults=settings.faults) as up:
        monkeypatch.setenv("OPENAI_BASE_URL", up.url)
        for kind, body, prints in fences(page):
            if kind == "toml":
                config.write_text(body)
                load_configuration(file=config)
            elif kind == "console":
                asyncio.run_coroutine_threadsafe(up.service.accounts.flush(), up.loop).result(PATIENCE_S)
                key = play(body)
                if key is not None:
                    monkeypatch.setenv("OPENAI_API_KEY", key)
            elif kind == "python server":
                printed = io.StringIO()
                with contextlib.redirect_stdout(printed):
                    exec(compile(body, page, "exec"), session)
                assert prints is None or matches(prints, printed.getvalue()), printed.getvalue()


def test_keys_and_limits(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alice gets her key from the page, meets her limit, and bob a fault."""
    bob = create(home, "bob")
    play_page("keys-and-limits.md", home, monkeypatch, {"KEY_OF_BOB": bob})


def test_usage_and_cost(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What alice used is what the page shows, on the command line and over HTTP."""
    monkeypatch.setenv("OPENAI_API_KEY", create(home, "alice"))
    play_page("usage-and-cost.md", home, monkeypatch, {"KEY_OF_ADMIN": create(home, "admin", is_admin=True)})
