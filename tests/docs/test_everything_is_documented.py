"""What a user can meet - commands, routes, error codes - stands in the documentation, and its links lead somewhere."""

import re
from pathlib import Path

import pytest

from antiphon.cli.root import COMMANDS
from antiphon.server.app import ROUTES

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
TEXT = "\n".join(page.read_text() for page in PAGES)
LINK = re.compile(r"\]\((?!https?://|#|mailto:)([^)#\s]+)(?:#[^)]*)?\)")
CODE = re.compile(r"""code=["']([a-z_]+)["']""")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """A relative link names a file or folder that is there."""
    for target in LINK.findall(page.read_text()):
        assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_documented(command: str) -> None:
    """Each command is shown in use."""
    assert f"antiphon {command}" in TEXT


@pytest.mark.parametrize("route", ROUTES)
def test_every_route_is_documented(route: str) -> None:
    """Each path of the server has its place on a page."""
    assert route.replace(":path", "") in TEXT


def test_every_error_code_is_documented() -> None:
    """Each code that an answer can carry is explained."""
    sources = "\n".join(path.read_text() for path in (ROOT / "src" / "antiphon").rglob("*.py"))
    missing = sorted(code for code in set(CODE.findall(sources)) if f"`{code}`" not in TEXT)
    assert not missing
