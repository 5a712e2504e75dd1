"""A document, as an index takes it in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from antiphon.search.chunking import Chunking, Syntax


@dataclass(frozen=True, slots=True)
class Document:
    """A text under a name that is unique in its index.

    ``title`` is embedded and searched with each chunk, which tells what a lone paragraph is about. ``metadata`` is a
    flat JSON object to filter by; it is stored, not embedded.
    """

    id: str
    text: str
    title: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any], hash=False)
    syntax: Syntax = "text"

    def fingerprint(self, chunking: Chunking) -> str:
        """Name what the chunks and vectors depend on, so that a change of anything else embeds nothing."""
        parts = [self.text, self.title, self.syntax, chunking.tokens, chunking.overlap]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
