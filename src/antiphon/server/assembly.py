"""Puts a server together from its configuration."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from antiphon.backends.local import LocalBackend, LocalModel
from antiphon.backends.local_chat import LocalChat
from antiphon.backends.local_embedding import LocalEmbedding
from antiphon.engine import Engine
from antiphon.models import Catalogue, ModelEntry, Store
from antiphon.server.configuration import Configuration
