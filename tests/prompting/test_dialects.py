"""A schema means what the draft says that it names."""

from typing import Any

import pytest

from antiphon.prompting.schemas.dialects import in_latest_terms

BESIDE = {
    "properties": {"a": {"$ref": "#/definitions/text", "maxLength": 1, "additionalProperties": False}},
    "definitions": {"text": {"type": "string"}},
}


@pytest.mark.parametrize(
    "draft",
    [
        "http://json-schema.org/draft-04/schema#",
        "http://json-schema.org/draft-07/schema",
        "https://json-schema.org/draft-06/schema#",
    ],
)
def test_keywords_next_to_a_reference_in_older_drafts(draft: str) -> None:
    """Up to draft 7 a reference counts alone, and keywords next to it restrict nothing."""
    made = in_latest_terms({"$schema": draft, **BESIDE})
    assert made["properties"] == {"a": {"$ref": "#/definitions/text"}}
    assert made["definitions"] == BESIDE["definitions"]


@pytest.mark.parametrize("head", [{}, {"$schema": "https://json-schema.org/draft/2020-12/schema"}, {"$schema": 7}])
def test_keywords_next_to_a_reference_since_2019(head: dict[str, Any]) -> None:
    """In later drafts, and where none is named, they count."""
    assert in_latest_terms({**head, **BESIDE}) == {**head, **BESIDE}


def test_what_only_looks_like_a_reference() -> None:
    """A property or a constant of that name is not a reference; definitions next to one at the root stay."""
    draft = {"$schema": "http://json-schema.org/draft-07/schema#"}
    plain = {**draft, "properties": {"$ref": {"type": "string"}, "a": {"const": {"$ref": "x", "b": 1}}}}
    assert in_latest_terms(plain) == plain
    root = {**draft, "$ref": "#/definitions/a", "type": "object", "definitions": {"a": {"type": "integer"}}}
    assert in_latest_terms(root) == {key: value for key, value in root.items() if key != "type"}
