"""The events of items that the server itself makes, by running a tool; they join those of the model in one stream.

Order per item: one ``ItemAdded``; then its ``ItemNews``; then one ``ItemDone``. Items may overlap.
"""

from typing import Any

import msgspec

Json = dict[str, Any]


class ItemAdded(msgspec.Struct, frozen=True):
    """A new output item. ``item`` is complete on the wire's terms but for what is still to come; it has an ``id``."""

    item: Json


class ItemNews(msgspec.Struct, frozen=True):
    """An event about an item: ``kind`` is its type on the wire, ``fields`` what it has besides the item's id and place."""

    item_id: str
    kind: str
    fields: Json = {}


class ItemDone(msgspec.Struct, frozen=True):
    """The item as it is from now on.

    ``remembered``: the item as the rest of this response sees it, where it holds more than the answer shows; None: the same.
    """

    item: Json
    remembered: Json | None = None


class Cited(msgspec.Struct, frozen=True):
    """The text that was said so far rests on a source. ``annotation`` is complete but for its ``index``."""

    annotation: Json


ItemEvent = ItemAdded | ItemNews | ItemDone
