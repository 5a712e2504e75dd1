"""The sections of the configuration, and the value that holds them all."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from antiphon.accounts import AccountSettings
from antiphon.backends.caching import CacheSettings
from antiphon.backends.settings import GatewaySettings
from antiphon.batches import BatchSettings
from antiphon.config import build, home_directory, read_layers
from antiphon.engine import EngineSettings
from antiphon.engine.settings import library_directory
from antiphon.files import FileSettings
from antiphon.server.console.settings import ConsoleSettings
from antiphon.server.request.faults import FaultSettings
from antiphon.server.settings import ModelSettings, ServerSettings
from antiphon.state import ResponseSettings
from antiphon.vector_stores import VectorStoreSettings
from antiphon.webhooks import WebhookSettings

SECTIONS: Mapping[str, type[msgspec.Struct]] = {
    "server": ServerSettings,
    "models": ModelSettings,
    "engine": EngineSettings,
    "embedding_engine": EngineSettings,
    "accounts": AccountSettings,
    "gateway": GatewaySettings,
    "cache": CacheSettings,
    "responses": ResponseSettings,
    "files": FileSettings,
    "vector_stores": VectorStoreSettings,
    "console": ConsoleSettings,
    "batches": BatchSettings,
    "webhooks": WebhookSettings,
    "faults": FaultSettings,
}


@dataclass(frozen=True, slots=True)
class Configuration:
    """All settings of one server. ``engine`` and ``embedding_engine`` hold the settings given for engines of that kind.

    Rerankers run with those of ``embedding_engine``.
    """

    home: Path
    server: ServerSettings
    models: ModelSettings
    accounts: AccountSettings
    gateway: GatewaySettings
    cache: CacheSettings
    responses: ResponseSettings
    files: FileSettings
    vector_stores: VectorStoreSettings
    console: ConsoleSettings
    batches: BatchSettings
    webhooks: WebhookSettings
    faults: FaultSettings
    engine: Mapping[str, Any]
    embedding_engine: Mapping[str, Any]

    def engine_settings(self, kind: str, model_path: Path) -> EngineSettings:
        """Return the settings of the engine that runs the file ``model_path``."""
        section = "engine" if kind == "chat" else "embedding_engine"
        given = self.engine if kind == "chat" else self.embedding_engine
        if kind == "reranker":
            given = {**given, "pooling": "rank"}
        defaults = {
            "cache_directory": self.home / "models" / ".layouts",
            "library_directory": library_directory(self.home),
        }
        return build(EngineSettings, {**defaults, **given, "model_path": model_path}, section)


def load_configuration(
    *,
    file: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> Configuration:
    """Read file, environment and options; ``ConfigError`` names what is wrong and where it was set."""
    layers = read_layers(SECTIONS, file=file, environ=environ, options=options)
    return Configuration(
        home=home_directory(environ),
        server=build(ServerSettings, layers["server"], "server"),
        models=build(ModelSettings, layers["models"], "models"),
        accounts=build(AccountSettings, layers["accounts"], "accounts"),
        gateway=build(GatewaySettings, layers["gateway"], "gateway"),
        cache=build(CacheSettings, layers["cache"], "cache"),
        responses=build(ResponseSettings, layers["responses"], "responses"),
        files=build(FileSettings, layers["files"], "files"),
        vector_stores=build(VectorStoreSettings, layers["vector_stores"], "vector_stores"),
        console=build(ConsoleSettings, layers["console"], "console"),
        batches=build(BatchSettings, layers["batches"], "batches"),
        webhooks=build(WebhookSettings, layers["webhooks"], "webhooks"),
        faults=build(FaultSettings, layers["faults"], "faults"),
        engine=layers["engine"],
        embedding_engine=layers["embedding_engine"],
    )
