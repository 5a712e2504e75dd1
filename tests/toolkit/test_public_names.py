"""The public face of the package."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import antiphon

ROOT = Path(__file__).parents[2]
PAGES = "\n".join(page.read_text() for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))))
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGES, re.MULTILINE | re.DOTALL)


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT / "src")
    return done.stdout


def test_every_name_is_there_and_its_table_is_what_type_checkers_see() -> None:
    """The imports for type checkers and the table for running code are the same."""
    source = ast.parse((ROOT / "src" / "antiphon" / "__init__.py").read_text())
    block = next(node for node in source.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == antiphon._HOME
    for name in antiphon._HOME:
        assert getattr(antiphon, name).__name__ == name
    assert set(antiphon._HOME) <= set(dir(antiphon))
    with pytest.raises(AttributeError, match="no attribute 'Chta'"):
        antiphon.Chta  # noqa: B018 - the access is the test


def test_importing_loads_neither_the_server_nor_what_is_not_used() -> None:
    """Beyond the official client an application pays for what it uses."""
    code = "import sys, antiphon; print([m for m in sys.modules if m.startswith(('antiphon.', 'openai', 'numpy'))])"
    assert python(code).strip() == "[]"
    code = "import sys, antiphon; antiphon.Chat; print(sorted(m for m in sys.modules if m.startswith('antiphon.')))"
    loaded = ast.literal_eval(python(code))
    assert {name.split(".")[1] for name in loaded} == {"config", "errors", "sqlite_file", "toolkit", "wire"}


def test_importing_takes_less_than_half_of_what_the_client_takes() -> None:
    """In the processor's time and in one process, since machines differ and other work may slow them down."""
    code = (
        "from time import process_time as now; a = now(); import openai; b = now(); "
        "import antiphon; antiphon.Chat; print((now() - b) / (b - a))"
    )
    assert min(float(python(code)) for _ in range(3)) < 0.5


@pytest.mark.parametrize("name", sorted(antiphon._HOME))
def test_every_public_name_is_in_the_docs(name: str) -> None:
    """Each is on a page, and each function, or the synchronous twin of it, in an example that runs."""
    assert re.search(rf"\b{name}\b", PAGES), f"{name} is on no page"
    if name[0].islower():
        twins = {name, name.removeprefix("a")} & antiphon._HOME.keys()
        assert any(twin in example for twin in twins for example in EXAMPLES), f"{name} is in no example"


def test_the_whole_guide_is_one_short_script_of_public_names() -> None:
    """At most sixty lines, importing the toolkit from ``antiphon`` alone."""
    page = (ROOT / "docs" / "toolkit" / "README.md").read_text()
    script = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[0]
    imported = {node.module for node in ast.walk(ast.parse(script)) if isinstance(node, ast.ImportFrom)}
    assert imported == {"antiphon", "pathlib", "pydantic", "typing"}
    assert len([line for line in script.splitlines() if line.strip()]) <= 60
