"""Which models there are, their aliases, and where their weights come from."""

from antiphon.models.catalogue import Catalogue
from antiphon.models.entry import Alias, Kind, ModelEntry, Resolved
from antiphon.models.errors import (
    BadSource,
    ConversionFailed,
    CorruptModel,
    ModelError,
    ModelNotFound,
    NotStored,
    SourceUnavailable,
    StoreFull,
)
from antiphon.models.gguf_header import GGUFHeader, read_header
from antiphon.models.progress import Phase, Progress, ProgressEvent
from antiphon.models.store import ModelStore, StoredFile, StoredModel, default_home

__all__ = [
    "Alias",
    "BadSource",
    "Catalogue",
    "ConversionFailed",
    "CorruptModel",
    "GGUFHeader",
    "Kind",
    "ModelEntry",
    "ModelError",
    "ModelNotFound",
    "ModelStore",
    "NotStored",
    "Phase",
    "Progress",
    "ProgressEvent",
    "Resolved",
    "SourceUnavailable",
    "StoreFull",
    "StoredFile",
    "StoredModel",
    "default_home",
    "read_header",
]
