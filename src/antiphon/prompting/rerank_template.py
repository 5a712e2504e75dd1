"""The prompt of a reranker that is a language model: its file's template with the question and the document in it.

The template is text with ``{query}`` and ``{document}``, as llama.cpp's converter writes it.
"""

import re
from collections.abc import Iterable

from antiphon.prompting.escaping import Piece, SpecialTokenEscaper

_PLACES = re.compile(r"(\{query\}|\{document\})")


class RerankTemplate:
    """Renders ``template``. Neither question nor document can contain a special token of the model."""

    def __init__(self, template: str, special_tokens: Iterable[str]) -> None:
        self._parts = _PLACES.split(template)
        self._escaper = SpecialTokenEscaper(special_tokens)

    def pieces(self, query: str, document: str) -> tuple[Piece, ...]:
        """Return the prompt. Raises ``PromptError`` for texts that use up every private-use character."""
        escaper = self._escaper.for_request()
        given = escaper.escape({"query": query, "document": document})
        return escaper.split("".join(given[part[1:-1]] if _PLACES.fullmatch(part) else part for part in self._parts))
