"""Writes every reference in the one form that the compiler takes everywhere: the name of a definition at the root.

``$ref`` may be any JSON pointer: into a property, through a list, with names in any characters. Later steps rename and
replace what such a pointer leads through, and the compiler refuses characters that are not those of a URI. So what such
references point to becomes a definition with a plain name.
"""

import re
from typing import Any, cast

from antiphon.prompting.schemas.traversal import Schema, has_more_than, rewritten, schemas_in
from antiphon.protocol.json_pointer import resolve_pointer

_PLAIN = re.compile(r"#|#/(?:\$defs|definitions)/[A-Za-z0-9_.-]+")

MAX_EXPANDED_CHARS = 400_000
"""Characters of a schema whose references were rewritten: twice what a request may send."""


class ExpandedSchemaError(ValueError):
    """The parts that references lead to are too large together."""


def with_plain_references(root: Schema) -> Schema:
    """Return the schema with a definition for whatever a reference in another form points to.

    A reference that points to no schema stays as it is. Raises ``ExpandedSchemaError`` for a result of more than
    ``MAX_EXPANDED_CHARS``, since parts that contain each other come once for each reference.
    """
    schemas = schemas_in(root)
    known = {id(schema) for schema in schemas}
    shared = cast("Schema", root.get("$defs")) if isinstance(root.get("$defs"), dict) else {}
    names: dict[str, str] = {}
    targets: dict[str, Any] = {}
    for schema in schemas:
        reference = schema.get("$ref")
        if not isinstance(reference, str) or reference in names:
            continue
        target = resolve_pointer(root, reference)
        if isinstance(target, bool) or id(target) in known:
            plain = _PLAIN.fullmatch(reference) is not None
            names[reference] = reference if plain else _new_name(shared, targets, target)
    if not targets:
        return root
    expanded = {**root, "$defs": {**shared, **targets}}
    if has_more_than(expanded, MAX_EXPANDED_CHARS):
        raise ExpandedSchemaError

    def renamed(schema: Schema) -> Schema:
        reference = schema.get("$ref")
        return {**schema, "$ref": names.get(reference, reference)} if isinstance(reference, str) else schema

    return cast("Schema", rewritten(expanded, renamed))


def _new_name(shared: Schema, targets: dict[str, Any], target: Any) -> str:
    name = f"part{len(targets)}"
    while name in shared:
        name += "_"
    targets[name] = target
    return f"#/$defs/{name}"
