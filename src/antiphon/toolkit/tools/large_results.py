"""Results of tools that are too long for a model to read whole: cut, or kept for the model to read in parts.

The beginning and the end are shown, since tools commonly say first what it is and last how it ended. The text between them
says how much is left out, so that neither the model nor a reader takes the part for the whole.
"""

from __future__ import annotations

import functools
import itertools
from collections import OrderedDict

from antiphon.toolkit.tokens.text_estimate import estimate_text
from antiphon.toolkit.tools.tool import SchemaTool, Tool, ToolOptions

READ_RESULT = "read_result"
_HEAD = 0.7
_MIN_TOKENS = 32
_MAX_KEPT_CHARACTERS = 64 * 1024 * 1024
_READ_CHARACTERS = 8000


def cut_text(text: str, max_tokens: int, note: str = "") -> str:
    """Return ``text`` if it has about ``max_tokens`` at most (an estimate), else its beginning and end with what is left out.

    ``note`` follows the number of characters that are left out. At least 32 tokens of the text stay.
    """
    # No text has fewer tokens than this many characters; a shorter one need not be looked at.
    if len(text) <= max_tokens or (tokens := estimate_text(text)) <= max_tokens:
        return text
    keep = int(len(text) * max(max_tokens, _MIN_TOKENS) / tokens)
    head = int(keep * _HEAD)
    tail = keep - head
    if keep >= len(text):
        return text
    return f"{text[:head]}\n[... {len(text) - keep} characters left out{note} ...]\n{text[len(text) - tail :]}"


class KeptResults:
    """The whole texts of results that were shown in part, by the number that the model reads them with.

    The oldest are forgotten once they have 64 Mi characters together. ``tool`` is what the model reads them with.
    """

    def __init__(self) -> None:
        self._texts: OrderedDict[int, str] = OrderedDict()
        self._numbers = itertools.count(1)

    @functools.cached_property
    def tool(self) -> Tool:
        """What the model reads them with. Made when a tool needs it: checking its schema takes some 20 ms."""
        return SchemaTool(
            READ_RESULT,
            "Read a part of a tool's result that was too long to be shown whole.",
            {
                "type": "object",
                "properties": {
                    "number": {"type": "integer", "description": "The number of the result."},
                    "start": {"type": "integer", "minimum": 0, "description": "The first character to read."},
                },
                "required": ["number", "start"],
                "additionalProperties": False,
            },
            function=self.read,
            strict=True,
            options=ToolOptions(),
        )

    def keep(self, text: str, max_tokens: int) -> str:
        """Return what to show of ``text``, and keep the whole if that is a part."""
        number = next(self._numbers)
        shown = cut_text(text, max_tokens, f"; read them with {READ_RESULT}(number={number}, start=...)")
        if shown != text:
            self._texts[number] = text
            while len(self._texts) > 1 and sum(map(len, self._texts.values())) > _MAX_KEPT_CHARACTERS:
                self._texts.popitem(last=False)
        return shown

    def read(self, number: int, start: int) -> str:
        """Return a part of a kept result, from the character ``start``."""
        text = self._texts.get(number)
        if text is None:
            raise LookupError(f"result {number} is not kept; call the tool again")
        end = min(start + _READ_CHARACTERS, len(text))
        rest = f"\n[... {len(text) - end} characters follow, from {end} ...]" if end < len(text) else ""
        return text[start:end] + rest


def bounded(content: str, options: ToolOptions, kept: KeptResults) -> str:
    """Return ``content`` within the bound of its tool."""
    if options.max_result_tokens is None:
        return content
    if options.on_large == "spill":
        return kept.keep(content, options.max_result_tokens)
    return cut_text(content, options.max_result_tokens)
