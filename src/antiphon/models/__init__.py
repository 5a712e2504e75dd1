"""The known models, their aliases, and where their weights come from."""

from antiphon.config import home_directory as default_home
from antiphon.models.catalogue import Catalogue
from antiphon.models.defaults import OPENAI_PATTERNS
from antiphon.models.entry import Alias, Kind, ModelEntry, Resolved
from antiphon.models.errors import (
    BadName,
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
from antiphon.models.store import ModelStore, StoredFile, StoredModel

__all__ = [
    "OPENAI_PATTERNS",
    "Alias",
    "BadName",
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
