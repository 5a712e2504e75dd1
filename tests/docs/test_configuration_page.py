"""The page of settings is complete and true."""

import re
from pathlib import Path

import msgspec
import pytest

from antiphon.server.configuration import SECTIONS

PAGE = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()


def documented(section: str) -> set[str]:
    part = re.search(rf"^## `\[{section}\]`[^\n]*\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert part is not None, f"[{section}] has no heading in docs/configuration.md"
    return set(re.findall(r"^\| `(\w+)` \|", part[1], re.MULTILINE))


@pytest.mark.parametrize("section", [name for name in SECTIONS if name != "embedding_engine"])
def test_every_setting_is_documented(section: str) -> None:
    """Each key of each section has a row, and no row is about a key that is gone."""
    keys = {field.name for field in msgspec.structs.fields(SECTIONS[section])} - {"model_path"}
    assert documented(section) == keys
