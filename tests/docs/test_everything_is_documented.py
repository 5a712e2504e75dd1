"""What a user can meet - commands, routes, error codes - stands in the documentation, and its links lead somewhere."""

import re
from pathlib import Path
from typing import get_args

import pytest
from tests.docs.error_codes import read_codes

from antiphon.accounts.outcome import Kind
from antiphon.accounts.schema import usage
from antiphon.cli.root import COMMANDS
from antiphon.server.app import ROUTES

ROOT = Path(__file__).parents[2]
TOP = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
PAGES = [*(ROOT / name for name in TOP), *sorted((ROOT / "docs").rglob("*.md"))]
TEXT = "\n".join(page.read_text() for page in PAGES)
ANCHOR = re.compile(r"\]\((?!https?://|mailto:)([^)#\s]*)#([^)\s]+)\)")
DECISION = re.compile(
    r"# (?P<number>\d+)\. (?P<title>.+)\n\nDate: (?P<date>\d{4}-\d\d-\d\d)\. Status: (?P<status>accepted|superseded by \d+)\.\n"
)
# The token of the Hugging Face hub and the profile of Codex lie in the home folders of those programs.
OF_OTHER_PROGRAMS = {"token", "antiphon.config.toml"}
LINK = re.compile(r"\]\((?!https?://|#|mailto:)([^)#\s]+)(?:#[^)]*)?\)")


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


def test_everything_in_the_home_folder_is_documented() -> None:
    """Each file or folder that some module names in the home folder has its place in the operator's table."""
    source = "\n".join(path.read_text() for path in (ROOT / "src" / "antiphon").rglob("*.py"))
    found = set(re.findall(r'\b(?:home|home_directory\(\)) / "([^"]+)"', source)) - OF_OTHER_PROGRAMS
    page = (ROOT / "docs" / "operating.md").read_text()
    assert {"models", "antiphon.db", "key-secret", "vector_stores", "log.sqlite"} <= found
    assert not sorted(name for name in found if f"`{name}`" not in page and f"`{name}/" not in page)


def test_every_column_of_the_ledger_is_documented() -> None:
    """Each column of the table ``usage``, and each kind of request, stands on the page about usage."""
    page = (ROOT / "docs" / "usage-and-cost.md").read_text()
    names = {column.name for column in usage.columns} | set(get_args(Kind))
    assert not sorted(name for name in names if f"`{name}`" not in page)


def test_every_error_code_is_documented() -> None:
    """Each code that an answer can carry is explained, however the source makes it: by position or by f-string too."""
    codes = read_codes(ROOT / "src" / "antiphon")
    assert not codes.unreadable
    assert {"invalid_type", "integer_above_max_value", "decimal_below_min_value", "empty_array"} <= codes.found
    assert not sorted(code for code in codes.found if f"`{code}`" not in TEXT)


def test_a_code_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    """Codes by keyword, by position, by condition and by f-string are found; a computed one is unreadable."""
    source = """
class ApiError(Exception):
    def __init__(self, status, message, code=None): ...
def bad(message: str, code: str | None = None): return ApiError(400, message, code)
def long(kind: Literal["a", "b"], above):
    word = "max" if above else "min"
    return bad("long", f"{kind}_{word}")
bad("x", code="by_keyword")
ApiError(400, "x", "by_position" if bad else "by_condition")
def computed(): return bad("x", secret())
"""
    (tmp_path / "module.py").write_text(source)
    codes = read_codes(tmp_path)
    assert codes.found == {"a_max", "a_min", "b_max", "b_min", "by_keyword", "by_position", "by_condition"}
    assert codes.unreadable == ["module.py:10: secret()"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_anchors_exist(page: Path) -> None:
    """A link to a heading names a heading of the page it leads to."""
    for target, anchor in ANCHOR.findall(page.read_text()):
        other = page.parent / target if target else page
        assert anchor in headings(other.read_text()), f"{page.relative_to(ROOT)} links to {target}#{anchor}"


def headings(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_index_of_decisions_is_complete() -> None:
    """Decisions are numbered in one row; each has a date and a status, and a line in the index that agrees."""
    folder = ROOT / "docs" / "decisions"
    records = sorted(path for path in folder.glob("*.md") if path.name != "README.md")
    assert [path.name[:4] for path in records] == [f"{number:04d}" for number in range(1, len(records) + 1)]
    lines = [(path.name, DECISION.match(path.read_text())) for path in records]
    assert not [name for name, line in lines if line is None or int(line["number"]) != int(name[:4])]
    index = [
        f"| {name[:4]} | [{line['title']}]({name}) | {line['date']} | {line['status']} |"
        for name, line in lines
        if line is not None
    ]
    assert re.findall(r"^\| \d{4} .*$", (folder / "README.md").read_text(), re.MULTILINE) == index
