"""The tool ``file_search``: its tables, how the model sees its results, and the citations in what the model then says.

The model sees results under numbers and cites them as ``[1]``. Such a marker is taken out of the text, and an annotation says
where it was. One that follows a word directly, as in ``list[1]``, may be code: it stays, and counts as a citation all the same.
"""

import re
from collections.abc import Sequence
from typing import Any, cast

import msgspec

from antiphon.protocol.events import TextDelta
from antiphon.protocol.fields import String
from antiphon.protocol.responses.found import FOUND
from antiphon.protocol.responses.output_items import Cited
from antiphon.protocol.shapes import Array, Object
from antiphon.protocol.vector_stores import filters, max_num_results, ranking_options

Json = dict[str, Any]
NAME = "file_search"
MAX_STORES = 16
file_search_tool = Object(
    {
        "type": String(),
        "vector_store_ids": Array(String(min_length=1, max_length=64), "strings", min_length=1, max_length=MAX_STORES),
        "filters": filters,
        "max_num_results": max_num_results,
        "ranking_options": ranking_options,
    },
    required=("type", "vector_store_ids"),
)
file_search_choice = Object({"type": String()}, required=("type",))

_MARKER = re.compile(r" ?\[(\d{1,3}(?:, ?\d{1,3})*)\]")
# What may be the beginning of a marker, at the end of the text so far.
_BEGUN = re.compile(r" ?(?:\[[\d, ]{0,16})?$")


def results_text(item: Json) -> str | None:
    """Return the results of a ``file_search_call`` as the model reads them; None for an item without any."""
    results: Any = item.get(FOUND) or item.get("results")
    if not isinstance(results, list):
        return None
    shown: list[str] = []
    for position, result in enumerate(cast("list[Any]", results), start=1):
        if isinstance(result, dict):
            known = cast("Json", result)
            number = known.get("marker", position)
            shown.append(f"[{number}] {known.get('filename') or known.get('file_id')}\n{known.get('text') or ''}")
    return "\n\n".join(shown) or "Nothing was found."


class Citations:
    """Follows the text of one response. ``add`` makes results known, which text from then on may cite."""

    def __init__(self) -> None:
        self._sources: dict[int, Json] = {}
        self._held = ""
        self._before = ""

    def add(self, results: Sequence[Json]) -> None:
        """Make results known under their ``marker``."""
        self._sources |= {result["marker"]: result for result in results}

    def follow(self, event: Any) -> list[Any]:
        """Return what the client sees of an event: text without markers, and ``Cited`` where one was."""
        if not self._sources:
            return [event]
        if not isinstance(event, TextDelta):
            return [*self.flush(), event]
        text = self._held + event.text
        begun = _BEGUN.search(text)
        assert begun is not None  # it matches the empty end
        self._held = text[begun.start() :]
        found = self._split(text[: begun.start()])
        if event.logprobs:
            found = _with_logprobs(found, event)
        return found

    def flush(self) -> list[Any]:
        """Return what was held back, when nothing can complete it any more."""
        text, self._held = self._held, ""
        found = self._split(text)
        self._before = ""
        return found

    def _split(self, text: str) -> list[Any]:
        found: list[Any] = []
        start = 0
        for marker in _MARKER.finditer(text):
            numbers = [int(number) for number in marker[1].split(",")]
            if not all(number in self._sources for number in numbers):
                continue
            before = text[start : marker.start()]
            follows_word = bool(re.search(r"\w$", before or self._before)) and not marker[0].startswith(" ")
            self._say(found, text[start : marker.end()] if follows_word else before)
            if not follows_word:
                self._before = ""  # a marker right after this one follows no word
            found += [Cited(_annotation(self._sources[number])) for number in numbers]
            start = marker.end()
        self._say(found, text[start:])
        return found

    def _say(self, found: list[Any], text: str) -> None:
        if text:
            self._before = text[-1]
            found.append(TextDelta(0, text))


def _with_logprobs(found: list[Any], event: TextDelta) -> list[Any]:
    """Give the tokens of an event to the first text that is shown of it."""
    for position, one in enumerate(found):
        if isinstance(one, TextDelta):
            return [*found[:position], msgspec.structs.replace(one, logprobs=event.logprobs), *found[position + 1 :]]
    return [msgspec.structs.replace(event, text=""), *found]


def _annotation(result: Json) -> Json:
    return {"type": "file_citation", "file_id": result["file_id"], "filename": result["filename"]}
