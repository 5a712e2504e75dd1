"""The programs of the page about frameworks, against this server: run by ``make clients``."""

import re
from pathlib import Path

import pytest
from tests.clients.test_real_clients import WEATHER, installed, run, scripted
from tests.processes import ServerProcess

pytestmark = pytest.mark.clients
__all__ = ["scripted"]

PAGE = Path(__file__).parents[2] / "docs" / "frameworks.md"
PROGRAMS = dict(re.findall(r"^## (\S+)\n\n```python no-run\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL))
OBJECT = "city='Oslo' degrees=12"
PRINTED = {
    "LangChain": [WEATHER, OBJECT],
    "LlamaIndex": ["one two three", WEATHER],
    "instructor": [OBJECT],
    "pydantic-ai": [WEATHER, OBJECT],
    "openai-agents": [WEATHER],
}
# These do not work with the official client from version 3 on.
OLDER = ("python-openai-2", "requirements-openai-2.txt")
ENVIRONMENTS = {"LlamaIndex": OLDER, "instructor": OLDER}


def test_every_framework_of_the_page_is_run() -> None:
    """And no other is expected."""
    assert PROGRAMS.keys() == PRINTED.keys()


@pytest.mark.parametrize("framework", PRINTED)
def test_the_program_of_the_page_does_what_it_says(framework: str, scripted: ServerProcess, tmp_path: Path) -> None:
    """With the versions that are pinned."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAMS[framework])
    python = installed(*ENVIRONMENTS.get(framework, ("python", "requirements.txt")))
    assert run(scripted, python, program, cwd=tmp_path).splitlines() == PRINTED[framework]
