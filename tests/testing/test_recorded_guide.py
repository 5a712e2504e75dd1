"""The whole guide, from tapes: every example of the toolkit's pages runs without a network, and prints what its page says.

``make record`` writes the tapes anew, against the default models of this machine; a page whose requests changed fails here
with the difference until then.
"""

import contextlib
import io
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from tests.docs.test_examples import ROOT, examples, matches

GUIDE = ROOT / "docs" / "toolkit"
# The doctor's and the testing module's pages are about connections, and have tests of their own.
PAGES = sorted(page for page in GUIDE.glob("*.md") if page.stem not in {"commands", "doctor", "testing"})


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Refuse every connection; while the tapes are being recorded, take the server that OPENAI_BASE_URL names, or one on the default models."""
    if request.config.getoption("--record"):
        if "OPENAI_BASE_URL" not in os.environ:
            monkeypatch.setenv("OPENAI_BASE_URL", request.getfixturevalue("local_server"))
            monkeypatch.setenv("OPENAI_API_KEY", "local")
        return

    def refused(_: socket.socket, address: Any) -> None:
        raise OSError(f"no network: {address!r}")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket.socket, "connect_ex", refused)


@pytest.mark.recorded
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_page_runs_without_a_network(
    page: Path, no_network: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Top to bottom in one session, as a reader would."""
    # Without the caches of the user's home, which would answer what the tape should.
    monkeypatch.setenv("ANTIPHON_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    session: dict[str, object] = {"__name__": "__main__"}
    for example in examples(page.read_text()):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile("\n" * (example.line - 1) + example.code, str(page), "exec"), session)
        if example.prints is not None:
            assert matches(example.prints, printed.getvalue()), f"{page.name}:{example.line}\n{printed.getvalue()}"
