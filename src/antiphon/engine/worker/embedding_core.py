"""The core of an embedding model: inputs of all requests packed into batches."""

import msgspec

from antiphon.engine.errors import EngineStartFailed
from antiphon.engine.ipc.messages import Answer, Embed, Embedded, Request
from antiphon.engine.model.llama import Model
from antiphon.engine.model.sizing import choose_for_embedding
from antiphon.engine.model.weight_format import Served
from antiphon.engine.scheduling import batch_shapes
from antiphon.engine.settings import EngineSettings
from antiphon.engine.steps.embedding import EmbeddingLoop, EmbeddingTask
from antiphon.engine.steps.loop import Emit
from antiphon.engine.worker.core import EngineCore, Start
from antiphon.engine.worker.loading import (
    LoadedModel,
    choose_sizes,
    compute_first_batch,
    context_settings,
    describe,
    make_context,
)
from antiphon.engine.worker.native_start import NativeStart


class EmbeddingCore(EngineCore):
    """Answers ``Embed``.

    Raises:
        EngineStartFailed: the model cannot be served.
    """

    def __init__(self, settings: EngineSettings, native: NativeStart, served: Served, model: Model, emit: Emit) -> None:
        if not model.gives_vectors:
            raise EngineStartFailed(
                f"{str(served.path)!r} embeds, but does not pool its outputs into one vector for a text",
                hint="Serve a file whose `pooling_type` is mean, cls or last; rerankers are not served.",
            )
        sizes = choose_sizes(settings, model, choose_for_embedding)
        chosen = context_settings(settings, sizes, embeddings=True)
        traits = model.traits(chosen)
        num_slots = sizes.num_sequences if model.facts.has_state else traits.max_slots
        context = make_context(model.context, msgspec.structs.replace(chosen, num_sequences=num_slots))
        native.enter("computing the first batch")
        compute_first_batch(context, model, 1)
        loaded = LoadedModel(settings, native, served, model, sizes, traits, context, num_slots)
        self._loop = EmbeddingLoop(
            context,
            emit,
            tile=batch_shapes.TILE if traits.kernels == "tiled" else 1,
            max_sequences=num_slots,
            throttle=loaded.throttle(),
        )
        super().__init__(loaded, self._loop, describe(loaded, is_embedding=True))

    async def _prepare(self, key: tuple[int, int], request: Request, arrived: float) -> Start | Answer:  # noqa: ARG002 - embeddings have no deadline
        if not isinstance(request, Embed):
            raise self._refuse_kind("does not generate text")
        if not request.prompts:
            return Embedded(request.id, (), ())
        prompts = await self._encode(*request.prompts, whole=True)
        for prompt in prompts:
            self._check_length(prompt, 0)
        task = EmbeddingTask(key, request, prompts)
        return lambda: self._loop.inbox.put(task)
