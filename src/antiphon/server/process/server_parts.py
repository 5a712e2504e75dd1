"""The composition root: puts a server together from its configuration (files, engines, backends, accounts, service)."""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import msgspec

from antiphon.accounts import Accounts
from antiphon.backends.base import Backend
from antiphon.backends.caching import CachingBackend, make_store
from antiphon.backends.local.backend import LocalBackend, LocalModel
from antiphon.backends.local.chat import LocalChat
from antiphon.backends.local.embedding import LocalEmbedding
from antiphon.backends.local.reranking import LocalReranker
from antiphon.backends.routing import DefaultName, NameSettings, Router
from antiphon.backends.scripted.backend import ScriptedBackend
from antiphon.backends.scripted.script import read_script
from antiphon.backends.settings import upstream_backends
from antiphon.engine import Engine
from antiphon.errors import ConfigError
from antiphon.gguf_file import files_of
from antiphon.models import Catalogue, ModelEntry, ModelStore, Progress, read_header
from antiphon.models.catalogue import suggest_id
from antiphon.server.configuration import Configuration
from antiphon.server.console.parts import ConsoleOptions
from antiphon.server.logs import log
from antiphon.server.service import Service, ServiceOptions
from antiphon.server.settings import ExtraModel, ModelSettings


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model to serve: its entry, and its verified file on this machine."""

    entry: ModelEntry
    path: Path


def choose_models(configuration: Configuration) -> tuple[Catalogue, tuple[ModelEntry, ...]]:
    """Return the catalogue with the user's models in it (those pulled before too), and what is to be served."""
    settings = configuration.models
    catalogue = msgspec.structs.replace(ModelStore(configuration.home).catalogue(), openai_names=settings.openai_names)
    wanted: list[str] = []
    choices: Mapping[Literal["chat", "embedding"], str] = {"chat": settings.chat, "embedding": settings.embedding}
    for kind, choice in choices.items():
        if choice == "none":
            continue
        if choice != "default":
            catalogue = catalogue.add(choice, kind=kind, default=True)
        wanted.append(catalogue.default_of(kind).id)
    if settings.reranker != "none":
        catalogue, reranker = catalogue.with_reranker(settings.reranker)
        wanted.append(reranker)
    for extra in settings.extra:
        entry = _entry(catalogue, extra)
        catalogue = catalogue.with_models([entry])
        wanted.append(entry.id)
    served = {entry.id: entry for entry in catalogue.entries if entry.id in wanted}
    return catalogue, tuple(served[name] for name in dict.fromkeys(wanted))


def _entry(catalogue: Catalogue, extra: ExtraModel) -> ModelEntry:
    """Return the entry of a further model: one of the catalogue by its name, or a new one."""
    known = next((entry for entry in catalogue.entries if entry.id == extra.source), None)
    if known is not None:
        return msgspec.structs.replace(known, aliases=(*known.aliases, *extra.aliases))
    return ModelEntry(
        id=extra.id or suggest_id(extra.source), kind=extra.kind, source=extra.source, aliases=extra.aliases
    )


def fetch_models(configuration: Configuration, progress: Progress) -> list[ModelFile]:
    """Download every model that is missing, which may take long; ``progress`` reports it."""
    store = ModelStore(configuration.home)
    _, entries = choose_models(configuration)
    return [ModelFile(entry, _checked(entry, store.ensure(entry, progress))) for entry in entries]


def _checked(entry: ModelEntry, path: Path) -> Path:
    """Return the path. ``ConfigError`` for a reranker without the tensors that rank: it would answer with noise."""
    if entry.kind == "reranker" and not any(read_header(file).has_classifier for file in files_of(path)):
        raise ConfigError(
            f"{str(path)!r} cannot rank documents: it has no classification head",
            hint="Some conversions lose it; serve a file with the tensor cls.weight or cls.output.weight.",
        )
    return path


class ServerParts:
    """Owns the parts of a server. Made by ``open``, ended by ``aclose``."""

    def __init__(self, configuration: Configuration, local: Backend, router: Router, accounts: Accounts) -> None:
        self.configuration = configuration
        self._local = local
        self.router = router
        self.accounts = accounts
        store = make_store(configuration.cache, configuration.home)
        self.service = Service(
            configuration.server,
            accounts,
            router if store is None else CachingBackend(router, store),
            ServiceOptions(
                organization=configuration.accounts.organization,
                home=configuration.home,
                cache=configuration.cache,
                faults=configuration.faults,
                responses=configuration.responses,
                gateway=configuration.gateway,
                webhooks=configuration.webhooks,
                files=configuration.files,
                vector_stores=configuration.vector_stores,
                console=ConsoleOptions(
                    settings=configuration.console,
                    home=configuration.home,
                    engines=self._engines_by_model,
                    local_names=lambda: local.model_names if isinstance(local, LocalBackend) else {},
                    num_workers=configuration.server.workers,
                ),
                batches=configuration.batches,
            ),
            upstreams=router,
        )

    @classmethod
    async def open(
        cls, configuration: Configuration, files: list[ModelFile], status_folder: Path | None = None
    ) -> Self:
        """Put the parts together; no engine runs yet. ``ConfigError`` for an address that anyone could use without a key.

        ``status_folder`` is where the process that owns the engines writes their status; None: this process owns them.
        """
        return await cls.over(configuration, make_local(configuration, files, status_folder))

    @classmethod
    async def over(cls, configuration: Configuration, local: Backend) -> Self:
        """Put the parts together around ``local``, the backend for the models of this machine. Raises as ``open`` does."""
        router = _router(configuration, local)
        accounts = await Accounts.open(configuration.accounts, configuration.home)
        if accounts.is_open and not configuration.server.is_loopback:
            await accounts.aclose()
            raise ConfigError(
                f"refusing to listen on {configuration.server.host}: no key exists, so anyone who can reach it could use it",
                hint="create one with `antiphon keys create --name NAME`, or listen on 127.0.0.1",
            )
        return cls(configuration, local, router, accounts)

    @property
    def engines(self) -> Sequence[Engine]:
        """The engines that this process follows or owns."""
        return self._local.engines if isinstance(self._local, LocalBackend) else ()

    def _engines_by_model(self) -> Mapping[str, Engine]:
        return self._local.engine_of if isinstance(self._local, LocalBackend) else {}

    def engine_pids(self) -> list[int]:
        """Return the engine processes that this process owns and that run."""
        return [engine.pid for engine in self.engines if engine.pid is not None]

    async def start(self) -> None:
        """Load the models and probe the upstreams; returns when all models are ready."""
        self.service.start()
        loading = [self._local.start()] if isinstance(self._local, LocalBackend) else []
        await asyncio.gather(*loading, self.router.start())
        for alias, model in self.configuration.models.aliases.items():
            if not self.router.serves(alias):
                log.warning("nothing serves the model of an alias", alias=alias, model=model)

    async def aclose(self) -> None:
        """End engines, then write what the ledger still holds."""
        await self.service.aclose()
        await self.service.backend.aclose()
        await self.accounts.aclose()


def _router(configuration: Configuration, local: Backend) -> Router:
    """Put the models of this machine, the upstreams and a script behind one router; the first that serves a name answers."""
    settings = configuration.gateway
    backends: dict[str, Backend] = {"local": local}
    backends |= upstream_backends(settings)
    if settings.script is not None:
        backends["scripted"] = ScriptedBackend(read_script(Path(settings.script).expanduser()))
    catalogue, entries = choose_models(configuration)
    ids = {entry.id for entry in entries}
    defaults = tuple(DefaultName(each.name, each.model) for each in catalogue.patterns if each.model in ids)
    names = NameSettings(aliases=configuration.models.aliases, defaults=defaults)
    return Router(backends, settings.routes, retry=settings.retry, breaker=settings.breaker, names=names)


def status_path(status_folder: Path, file: ModelFile) -> Path:
    """Return the status file of the engine that runs ``file``."""
    return status_folder / hashlib.sha256(file.entry.id.encode()).hexdigest()


def make_engine(configuration: Configuration, file: ModelFile, status_folder: Path | None = None) -> Engine:
    """Return the engine of a file: one that this process owns, or with ``status_folder`` one that another process owns."""
    settings = configuration.engine_settings(file.entry.kind, file.path)
    return Engine(settings, status_file=None if status_folder is None else status_path(status_folder, file))


def make_local(configuration: Configuration, files: list[ModelFile], status_folder: Path | None = None) -> LocalBackend:
    """Return the models of this machine; no engine runs yet. ``status_folder`` as for ``make_engine``."""
    names = _names(configuration, files, status_folder)
    patterns = choose_models(configuration)[0].patterns
    return LocalBackend(names, [(each.name, names[each.model]) for each in patterns if each.model in names])


def served_names(configuration: Configuration) -> frozenset[str]:
    """Return every name that the models to be served answer to, without their files."""
    catalogue, entries = choose_models(configuration)
    ids = {entry.id for entry in entries}
    return frozenset(ids | {alias.name for alias in catalogue.aliases if alias.model in ids})


def _names(configuration: Configuration, files: list[ModelFile], status_folder: Path | None) -> dict[str, LocalModel]:
    catalogue, _ = choose_models(configuration)
    templates = _chat_templates(configuration, catalogue)
    names: dict[str, LocalModel] = {}
    embedding = None
    # Chat models last: those that were not trained on tools need an embedding model to select tools.
    for file in sorted(files, key=lambda file: file.entry.kind == "chat"):
        entry = file.entry
        engine = make_engine(configuration, file, status_folder)
        aliases = {alias.name: alias.pad_to for alias in catalogue.aliases if alias.model == entry.id}
        if entry.kind == "chat":
            limit = configuration.models.default_max_tokens
            model: LocalModel = LocalChat(
                entry.id,
                engine,
                embed=embedding.vectors if embedding else None,
                default_max_tokens=(entry.default_max_tokens if limit is None else limit) or None,
                chat_template=templates.get(entry.id),
            )
        elif entry.kind == "reranker":
            model = LocalReranker(entry.id, engine)
        else:
            model = LocalEmbedding(entry.id, engine, {name: pad for name, pad in aliases.items() if pad is not None})
            embedding = embedding or model
        names[entry.id] = model
        names |= dict.fromkeys(aliases, model)
    return names


def _chat_templates(configuration: Configuration, catalogue: Catalogue) -> dict[str, str]:
    """Return the templates that the settings give, by the model's id. Raises ``ConfigError`` for a file that cannot be read."""
    settings = configuration.models
    given: list[tuple[str, ModelSettings | ExtraModel]] = [
        (_entry(catalogue, extra).id, extra) for extra in settings.extra
    ]
    if settings.chat != "none":
        given.append((catalogue.default_of("chat").id, settings))
    templates: dict[str, str] = {}
    for name, model in given:
        if model.chat_template is not None:
            templates[name] = model.chat_template
        elif model.chat_template_file is not None:
            templates[name] = _read_template(name, Path(model.chat_template_file).expanduser())
    return templates


def _read_template(name: str, path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"cannot read the chat template of {name!r}, {str(path)!r}: {error}",
            hint="chat_template_file is the path of a Jinja template in UTF-8",
        ) from error
