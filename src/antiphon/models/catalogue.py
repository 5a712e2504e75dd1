"""The known models, and the names that requests use for them."""

import difflib
import re
import unicodedata
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Literal

import msgspec

from antiphon.models.defaults import DEFAULT_CHAT, DEFAULT_EMBEDDING, OPENAI_NAMES, OPENAI_PATTERNS
from antiphon.models.entry import Alias, Kind, ModelEntry, Resolved
from antiphon.models.errors import BadSource, ModelNotFound
from antiphon.models.known import KNOWN
from antiphon.models.sources import looks_like_source, parse_source

_LONGEST_ID = 100


class Catalogue(msgspec.Struct, frozen=True):
    """An immutable table of models; every change returns a new one.

    ``default_chat`` and ``default_embedding`` are ids: they answer to OpenAI's names (``gpt-4o``,
    ``text-embedding-3-small``, ...) that match a pattern of ``openai_names``, unless an entry has such a name as an alias.
    """

    entries: tuple[ModelEntry, ...]
    default_chat: str
    default_embedding: str
    openai_names: tuple[str, ...] = OPENAI_PATTERNS

    @classmethod
    def default(cls) -> "Catalogue":
        """Return the two models that come with Antiphon, which answer OpenAI's names, and the well-known ones by short names."""
        entries = (DEFAULT_CHAT, DEFAULT_EMBEDDING, *(model.entry for model in KNOWN))
        return cls(entries, DEFAULT_CHAT.id, DEFAULT_EMBEDDING.id)

    def with_models(self, entries: Iterable[ModelEntry]) -> "Catalogue":
        """Return a catalogue with ``entries`` too; one with the id of an older entry takes its place."""
        merged = {entry.id: entry for entry in self.entries}
        for entry in entries:
            merged[entry.id] = entry
        return msgspec.structs.replace(self, entries=tuple(merged.values()))

    def with_default(self, kind: Literal["chat", "embedding"], name: str) -> "Catalogue":
        """Return a catalogue in which ``name`` is the default of its kind. Raises ``ModelNotFound``, ``BadSource``."""
        entry = self.resolve(name).entry
        if entry.kind != kind:
            raise BadSource(name, f"it is of the kind {entry.kind}, not {kind}")
        if kind == "chat":
            return msgspec.structs.replace(self, default_chat=entry.id)
        return msgspec.structs.replace(self, default_embedding=entry.id)

    def add(self, spec: str, *, kind: Kind, id: str | None = None, default: bool = False) -> "Catalogue":  # noqa: A002  # the API's word
        """Return a catalogue that also has the model at ``spec``, a source or a name that is already in it.

        Without ``id`` the model is called as its file is, without the ending. With ``default`` it takes over
        OpenAI's names, of which none is for a reranker. Raises ``BadSource``, ``ModelNotFound``.
        """
        if not looks_like_source(spec):
            known = self.resolve(spec).entry
            return self.with_default(kind, known.id) if default and kind != "reranker" else self
        entry = ModelEntry(id=id or suggest_id(spec), kind=kind, source=parse_source(spec).spec)
        grown = self.with_models([entry])
        return grown.with_default(kind, entry.id) if default and kind != "reranker" else grown

    def with_reranker(self, spec: str) -> tuple["Catalogue", str]:
        """Return a catalogue that has the reranker at ``spec``, a source or a name, and its id. Raises as ``add`` does."""
        if looks_like_source(spec):
            return self.add(spec, kind="reranker"), suggest_id(spec)
        entry = self.resolve(spec).entry
        if entry.kind != "reranker":
            raise BadSource(spec, f"it is of the kind {entry.kind}, not reranker")
        return self, entry.id

    def resolve(self, name: str) -> Resolved:
        """Return the model behind ``name``, an id or an alias. Raises ``ModelNotFound`` with similar names."""
        by_id = {entry.id: entry for entry in self.entries}
        if name in by_id:
            return Resolved(by_id[name])
        for alias in self.aliases:
            if alias.name == name:
                return Resolved(by_id[alias.model], alias.pad_to)
        known = [*by_id, *(alias.name for alias in self.aliases)]
        raise ModelNotFound(name, difflib.get_close_matches(name, known, n=3, cutoff=0.5))

    @property
    def aliases(self) -> tuple[Alias, ...]:
        """Every name in addition to the ids, the entries' own before OpenAI's."""
        own = {alias: Alias(alias, entry.id) for entry in self.entries for alias in entry.aliases}
        default = {"chat": self.default_chat, "embedding": self.default_embedding}
        openai = {
            name: Alias(name, default[kind], pad_to)
            for name, (kind, pad_to) in OPENAI_NAMES.items()
            if any(fnmatchcase(name, pattern) for pattern in self.openai_names)
        }
        taken = own.keys() | {entry.id for entry in self.entries}
        return (*own.values(), *(alias for name, alias in openai.items() if name not in taken))

    @property
    def patterns(self) -> tuple[Alias, ...]:
        """Patterns of further names that the defaults answer to; one with ``embedding`` in it is for embeddings."""
        return tuple(
            Alias(pattern, self.default_embedding if "embedding" in pattern else self.default_chat)
            for pattern in self.openai_names
        )

    def default_of(self, kind: Literal["chat", "embedding"]) -> ModelEntry:
        """Return the model that answers when OpenAI's names of ``kind`` are asked for."""
        return self.resolve(self.default_chat if kind == "chat" else self.default_embedding).entry


def suggest_id(spec: str) -> str:
    """Return a name for the model at ``spec``: its file's, or its folder's where every file is called ``model``.

    Accents are dropped, and whatever else a name cannot have becomes a hyphen.
    """
    file = parse_source(spec).file
    stem = file.name.removesuffix(file.suffix)
    name = file.parent.name if stem == "model" and file.parent.name else stem
    letters = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._:@-]+", "-", letters).strip("-._:@")[:_LONGEST_ID] or "model"
