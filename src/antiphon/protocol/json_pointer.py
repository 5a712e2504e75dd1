"""JSON pointers as ``$ref`` has them: RFC 6901, as the fragment of a URI (``#/$defs/a``)."""

from typing import Any, cast
from urllib.parse import unquote

_NOTHING = object()


def is_pointer(reference: str) -> bool:
    """Whether a reference points into its own document, and is not an anchor."""
    return reference == "#" or reference.startswith("#/")


def resolve_pointer(root: Any, reference: str) -> Any:
    """Return what a reference points to in ``root``, None if nothing or if it leads elsewhere.

    Names are percent-decoded, as the standard says. Where that leads nowhere they are taken as they are, since some
    generators write names without encoding them.
    """
    if not is_pointer(reference):
        return None
    found = _follow(root, unquote(reference))
    if found is _NOTHING:
        found = _follow(root, reference)
    return None if found is _NOTHING else found


def _follow(root: Any, pointer: str) -> Any:
    place = root
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(place, list):
            entries = cast("list[Any]", place)
            is_index = name.isascii() and name.isdecimal() and len(name) < len(str(len(entries))) + 1
            place = entries[int(name)] if is_index and int(name) < len(entries) else _NOTHING
        else:
            place = cast("dict[str, Any]", place).get(name, _NOTHING) if isinstance(place, dict) else _NOTHING
    return place
