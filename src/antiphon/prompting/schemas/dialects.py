"""Translates schemas of older drafts into the latest one.

Up to draft 7 keywords next to a ``$ref`` have no effect (draft 7, core, 8.3); since 2019-09 they count like all others,
and a grammar made of them would forbid what the schema allows.
"""

import re
from typing import Any, cast

from antiphon.prompting.schemas.traversal import Schema, rewritten

_OLD = re.compile(r"https?://json-schema\.org/draft-0[3-7]/")
_NO_RULES = frozenset({"$ref", "$schema", "$id", "id", "$defs", "definitions"})


def in_latest_terms(root: Schema) -> Schema:
    """Return the schema without the keywords that its own draft, named by ``$schema``, ignores."""
    draft: Any = root.get("$schema")
    return cast("Schema", rewritten(root, _reference_alone)) if isinstance(draft, str) and _OLD.match(draft) else root


def _reference_alone(schema: Schema) -> Schema:
    if not isinstance(schema.get("$ref"), str):
        return schema
    return {key: value for key, value in schema.items() if key in _NO_RULES}
