"""The glossary and the engine's page name files and classes that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "antiphon"
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text()
ENGINE = (ROOT / "docs" / "engine" / "README.md").read_text()
ROW = re.compile(r"^\| (?!term |---)([^|]+) \|.*\|([^|]*)\|$", re.MULTILINE)
PLACE = re.compile(r"`([a-z_/0-9]+\.py)`(?: \(`(\w+)`\))?")


@pytest.mark.parametrize(("term", "places"), [(row[1], row[2]) for row in ROW.finditer(GLOSSARY)])
def test_a_term_names_a_place_that_exists(term: str, places: str) -> None:
    """Each row names at least one file, and the name in parentheses is defined in it."""
    found = PLACE.findall(places)
    assert found, f"{term!r} names no file"
    for path, name in found:
        assert (SOURCE / path).is_file(), f"{term!r} names {path}, which does not exist"
        assert not name or re.search(rf"^(?:class|async def|def) {name}\b", (SOURCE / path).read_text(), re.MULTILINE)


def test_the_glossary_covers_the_terms_that_a_newcomer_searches_for() -> None:
    """About forty terms, among them those of the field that name the engine's techniques."""
    terms = [row[1] for row in ROW.finditer(GLOSSARY)]
    assert len(terms) >= 40
    for term in ("speculative decoding", "prompt lookup", "chunked prefill", "continuous batching", "single-flight"):
        assert any(term in row for row in terms)


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\b([a-z]+/[a-z_]+\.py)\b(?!\))", ENGINE))))
def test_the_engine_page_names_modules_that_exist(path: str) -> None:
    """Each module in the diagram and text of the engine's page exists."""
    assert (SOURCE / "engine" / path).is_file()
