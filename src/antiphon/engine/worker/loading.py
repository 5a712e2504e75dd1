"""Loads what both cores need: the model file, its sizes, its context, and its description for clients."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from antiphon.engine.errors import EngineStartFailed
from antiphon.engine.ipc.messages import ModelInfo, ModelKind
from antiphon.engine.machine import free_memory
from antiphon.engine.model.base import AnyContext, LoadedFile, ModelError, Traits
from antiphon.engine.model.llama import Context, LlamaError, Model
from antiphon.engine.model.openvino.context import PagedContext
from antiphon.engine.model.openvino.converted import ConvertedModel
from antiphon.engine.model.openvino.encoder import EncoderContext, EncoderModel
from antiphon.engine.model.openvino.model import PagedModel
from antiphon.engine.model.openvino.opening import open_converted
from antiphon.engine.model.sizing import ContextSettings, Machine, ModelFacts, Sizes
from antiphon.engine.model.thread_throttle import ThreadThrottle
from antiphon.engine.model.weight_format import FETCH_AGAIN, Served, remarks
from antiphon.engine.settings import EngineSettings
from antiphon.engine.worker.native_start import NativeStart

_WARM_SEQUENCES = 17
C = TypeVar("C", bound=AnyContext)
ChooseSizes = Callable[[EngineSettings, ModelFacts, Machine], Sizes]


class LoadedModel(msgspec.Struct, frozen=True):
    """A model in memory with its context. ``num_slots`` is how many sequences the KV cache tells apart."""

    settings: EngineSettings
    native: NativeStart
    served: Served
    model: LoadedFile
    sizes: Sizes
    traits: Traits
    context: AnyContext
    num_slots: int
    draft_path: Path | None = None
    draft_context: AnyContext | None = None

    @property
    def memory_bytes(self) -> int | None:
        """Bytes of keys, values and states, those of the draft model included. None: not known."""
        own = self.context.memory_bytes
        more = 0 if self.draft_context is None else self.draft_context.memory_bytes
        return None if own is None or more is None else own + more

    def throttle(self) -> ThreadThrottle | None:
        """Return what gives way to busy neighbours; None where the user set a number of threads, which is kept."""
        if self.settings.threads is not None or self.settings.batch_threads is not None:
            return None
        # OpenVINO's threads take work from one another, and so wait less for one that is late.
        contexts = [context for context in (self.context, self.draft_context) if isinstance(context, Context)]
        if not isinstance(self.context, Context):
            return None

        def set_threads(threads: int) -> None:
            for context in contexts:
                context.set_threads(threads)

        return ThreadThrottle(self.sizes.threads, set_threads)


def load_model(path: Path, gpu_layers: int | None, *, extra_buffers: bool = True) -> Model:
    """Load the file.

    Raises:
        EngineStartFailed: with what llama.cpp said.
    """
    try:
        return Model(path, gpu_layers=gpu_layers, extra_buffers=extra_buffers)
    except LlamaError as error:
        raise EngineStartFailed(
            f"{str(path)!r} could not be loaded: {error}",
            hint=FETCH_AGAIN,
        ) from error


def load_converted(folder: Path, source: Path) -> PagedModel | EncoderModel:
    """Load what was converted for OpenVINO from the file ``source``.

    Raises:
        EngineStartFailed: with what OpenVINO said.
    """
    try:
        return open_converted(folder, source)
    except (ModelError, OSError) as error:
        raise EngineStartFailed(
            f"{str(folder)!r} could not be loaded: {error}",
            hint="Remove this folder, so that the file is converted again.",
        ) from error


def choose_sizes(
    settings: EngineSettings,
    model: LoadedFile,
    choose: ChooseSizes,
    adapt: Callable[[ModelFacts], ModelFacts] | None = None,
) -> Sizes:
    """Return the sizes that ``choose`` picks for this model, whose facts ``adapt`` may change, on this machine.

    Raises:
        EngineStartFailed: what the user set does not fit, or there is no memory to find out.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        facts = model.facts if adapt is None else adapt(model.facts)
    except ModelError as error:
        raise EngineStartFailed(
            f"no context could be made to measure what the model keeps: {error}", hint="Free memory."
        ) from error
    return choose(settings, facts, Machine(cores, free_memory()))


def context_settings(settings: EngineSettings, sizes: Sizes, kind: ModelKind) -> ContextSettings:
    """Return the parameters of a context of these sizes, with a slot for each running sequence."""
    return ContextSettings(
        cells=sizes.cells,
        batch_size=sizes.batch_size,
        micro_batch_size=sizes.micro_batch_size,
        num_sequences=sizes.num_sequences,
        threads=sizes.threads,
        batch_threads=sizes.batch_threads,
        kv_type_k=settings.kv_type_k,
        kv_type_v=settings.kv_type_v,
        flash_attention=sizes.flash_attention,
        embeddings=kind != "chat",
        ranks=kind == "reranker",
    )


def make_context(make: Callable[[ContextSettings], C], chosen: ContextSettings) -> C:
    """Allocate the KV cache and the compute buffers.

    Raises:
        EngineStartFailed: there is no memory for them.
    """
    try:
        return make(chosen)
    except ModelError as error:
        raise EngineStartFailed(
            f"the context of {chosen.cells} cells could not be made: {error}",
            hint="Serve with a smaller `context_size` or `cache_size`.",
        ) from error


def compute_first_batch(context: AnyContext, model: LoadedFile, num_tokens: int) -> None:
    """Compute a few tokens, so that native code that does not fit this machine fails now.

    Raises:
        EngineStartFailed: the runtime refused.
    """
    if not model.decodes_alone:
        return
    context.batch.add(0, 0, [0] * num_tokens, 1)
    try:
        context.decode()
    except ModelError as error:
        raise EngineStartFailed(f"the first batch could not be computed: {error}", hint="Free memory.") from error
    context.batch.clear()
    context.clear()
    if isinstance(model, ConvertedModel):
        model.forget_weights()


def warm_up(context: AnyContext, model: LoadedFile) -> Iterator[None]:
    """Do, a step at a time, what the first requests would wait for; an engine is ready before that."""
    if isinstance(context, PagedContext):
        yield from context.warm_up(_WARM_SEQUENCES)
    if isinstance(context, EncoderContext):
        yield from context.warm_up()
    if isinstance(model, ConvertedModel):
        model.forget_weights()


def describe(loaded: LoadedModel, kind: ModelKind) -> ModelInfo:
    """Return what clients learn about the model."""
    model, vocabulary = loaded.model, loaded.model.vocabulary
    named = vocabulary.named
    templates = {
        key.removeprefix("tokenizer.chat_template."): text
        for key, text in model.metadata.items()
        if key.startswith("tokenizer.chat_template.")
    }
    fim = {name: vocabulary.text(named[name]) for name in ("prefix", "suffix", "middle") if name in named}
    return ModelInfo(
        architecture=model.architecture,
        description=model.description,
        context_length=loaded.sizes.context_size,
        training_context=model.training_context,
        vocabulary_size=vocabulary.size,
        embedding_size=model.embedding_size,
        size_bytes=model.size_bytes,
        num_parameters=model.num_parameters,
        chat_template=model.metadata.get("tokenizer.chat_template"),
        templates=templates,
        bos_token=vocabulary.text(named.get("bos")),
        eos_token=vocabulary.text(named.get("eos")),
        adds_bos=vocabulary.adds_bos,
        control_tokens=tuple(vocabulary.text(token) for token in sorted(vocabulary.control_tokens)),
        end_tokens=tuple(vocabulary.text(token) for token in sorted(vocabulary.end_tokens)),
        fim_tokens=fim if len(fim) == 3 else {},  # noqa: PLR2004 - all three or none
        metadata=model.metadata,
        kind=kind,
        settings=_chosen_settings(loaded),
        mark_ids=vocabulary.marks,
        longest_token=vocabulary.longest_token,
        pair=vocabulary.pair,
    )


def _chosen_settings(loaded: LoadedModel) -> dict[str, str]:
    """Return every setting that a client may want to know, chosen or given, as text."""
    kv_bytes = loaded.memory_bytes
    chosen = msgspec.structs.asdict(loaded.sizes) | {
        "kv_bytes": "unknown" if kv_bytes is None else kv_bytes,
        "kv_type_k": loaded.settings.kv_type_k,
        "kv_type_v": loaded.settings.kv_type_v,
        "runtime": loaded.model.runtime,
        "weight_format": loaded.served.type,
        "weight_format_reason": loaded.served.reason,
        "weight_format_remarks": "; ".join(remarks(loaded.served.reason)),
        "prefix_cache": loaded.settings.prefix_cache,
        "draft_model": "" if loaded.draft_path is None else loaded.draft_path.name,
        "notes": "; ".join(loaded.sizes.notes),
        **loaded.native.described(),
    }
    return {key: str(value) for key, value in chosen.items()}
