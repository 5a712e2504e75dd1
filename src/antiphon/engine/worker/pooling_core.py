"""The core of a model that pools a text's outputs, for embeddings or ranking: inputs of all requests packed into batches."""

from functools import partial

import msgspec

from antiphon.engine.errors import EngineStartFailed
from antiphon.engine.ipc.messages import Answer, Embed, Embedded, ModelKind, Rank, Ranked, Request
from antiphon.engine.model.base import PoolingModel, Traits
from antiphon.engine.model.sizing import choose_for_embedding
from antiphon.engine.model.weight_format import Served
from antiphon.engine.scheduling import batch_shapes
from antiphon.engine.settings import EngineSettings
from antiphon.engine.steps.batch_loop import Emit
from antiphon.engine.steps.packing import Packing, pack_alike, pack_tiles
from antiphon.engine.steps.pooling import PoolingLoop, PoolingTask, first_probabilities, unit_vectors
from antiphon.engine.worker.core import EngineCore, Start
from antiphon.engine.worker.loading import (
    LoadedModel,
    choose_sizes,
    compute_first_batch,
    context_settings,
    describe,
    make_context,
    warm_up,
)
from antiphon.engine.worker.native_start import NativeStart
from antiphon.gguf_file import files_of, read_head

_RANKS_BY_YES_AND_NO = frozenset({"qwen3", "qwen3vl"})
"""Architectures whose rerankers answer yes or no; llama.cpp gives the probability of yes first."""


class PoolingCore(EngineCore):
    """Answers ``Embed``, or ``Rank`` if the model is a reranker.

    Raises:
        EngineStartFailed: the model cannot be served.
    """

    def __init__(
        self, settings: EngineSettings, native: NativeStart, served: Served, model: PoolingModel, emit: Emit
    ) -> None:
        if settings.draft_model is not None:
            raise EngineStartFailed(
                f"draft_model {str(settings.draft_model)!r} is set for {str(served.path)!r}, which does not generate",
                hint="Set draft_model in [engine], for a chat model.",
            )
        kind = _kind(settings, served, model)
        sizes = choose_sizes(settings, model, choose_for_embedding)
        chosen = context_settings(settings, sizes, kind)
        traits = model.traits(chosen)
        num_slots = sizes.num_sequences if model.facts.has_state else traits.max_slots
        context = make_context(model.context, msgspec.structs.replace(chosen, num_sequences=num_slots))
        native.enter("computing the first batch")
        compute_first_batch(context, model, 1)
        loaded = LoadedModel(settings, native, served, model, sizes, traits, context, num_slots)
        self._loop = PoolingLoop(
            context,
            emit,
            read=first_probabilities if kind == "reranker" else unit_vectors,
            packing=_packing(traits),
            max_sequences=num_slots,
            throttle=loaded.throttle(),
            idle_work=warm_up(context, model),
        )
        self._kind = kind
        super().__init__(loaded, self._loop, describe(loaded, kind))

    async def _prepare(self, key: tuple[int, int], request: Request, arrived: float) -> Start | Answer:  # noqa: ARG002 - embeddings have no deadline
        match request:
            case Embed() if self._kind == "embedding":
                nothing: Answer = Embedded(request.id, (), ())
            case Rank() if self._kind == "reranker":
                nothing = Ranked(request.id, (), ())
            case _:
                raise self._refuse_kind(
                    "makes embeddings only" if self._kind == "embedding" else "ranks documents only"
                )
        if not request.prompts:
            return nothing
        prompts = await self._encode(*request.prompts, whole=isinstance(request, Embed))
        for prompt in prompts:
            self._check_length(prompt, 0)
        task = PoolingTask(key, request, prompts)
        return lambda: self._loop.inbox.put(task)


def _packing(traits: Traits) -> Packing:
    if traits.kernels == "padded":
        return pack_alike
    return partial(pack_tiles, tile=batch_shapes.TILE if traits.kernels == "tiled" else 1)


def _kind(settings: EngineSettings, served: Served, model: PoolingModel) -> ModelKind:
    """Return what the model does.

    Raises:
        EngineStartFailed: it neither makes vectors nor ranks.
    """
    if settings.pooling == "rank" or model.is_reranker:
        if model.num_classes != 1 and model.architecture not in _RANKS_BY_YES_AND_NO:
            raise EngineStartFailed(
                f"{str(served.path)!r} sorts texts into {model.num_classes} classes; a reranker has one output",
                hint="Serve a reranker, for example bge-reranker-v2-m3.",
            )
        if not any(read_head(file).has_classifier for file in files_of(served.path)):
            raise EngineStartFailed(
                f"{str(served.path)!r} cannot rank documents: it has no classification head",
                hint="Some conversions lose it; serve a file with the tensor cls.weight or cls.output.weight.",
            )
        return "reranker"
    if not model.gives_vectors:
        raise EngineStartFailed(
            f"{str(served.path)!r} embeds, but does not pool its outputs into one vector for a text",
            hint="Serve a file whose `pooling_type` is mean, cls, last or rank.",
        )
    return "embedding"
