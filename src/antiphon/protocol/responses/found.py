"""What ``file_search`` found, in the items that the server keeps: later turns see it, whether or not the client asked for it.

The API shows ``results`` where ``include`` names them, and no key beyond OpenAI's.
"""

from collections.abc import Mapping, Sequence
from typing import Any

Json = dict[str, Any]
FOUND = "antiphon_found"
"""The key, in an item that the server keeps, of results with the numbers under which the model saw them (``marker``)."""


def with_found(item: Json, results: Sequence[Json]) -> Json:
    """Return an item with what its search found, as the server keeps it for later turns."""
    return {**item, FOUND: list(results)}


def with_all_found(items: Sequence[Json], found: Mapping[str, Sequence[Json]]) -> list[Json]:
    """Return items, each with what ``found`` has under its id."""
    return [with_found(item, found[item["id"]]) if item.get("id") in found else item for item in items]


def without_found(item: Json) -> Json:
    """Return an item as a client may see it."""
    return {name: value for name, value in item.items() if name != FOUND} if FOUND in item else item


def found_by(items: Sequence[Json]) -> list[Json]:
    """Return what the searches of earlier turns found, with the markers under which the model saw it."""
    return [result for item in items for result in item.get(FOUND) or ()]
