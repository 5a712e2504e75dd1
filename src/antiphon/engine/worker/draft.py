"""Loads the draft model: a small model with the same vocabulary, which proposes what the served model verifies."""

import msgspec

from antiphon.engine.errors import EngineStartFailed
from antiphon.engine.model.base import LoadedFile, ModelContext, TextModel
from antiphon.engine.model.openvino.encoder import EncoderModel
from antiphon.engine.model.sizing import ContextSettings, ModelFacts, Sizes
from antiphon.engine.model.vocabulary import Vocabulary
from antiphon.engine.scheduling.batch_shapes import BatchShapes
from antiphon.engine.settings import EngineSettings
from antiphon.engine.steps.drafting import DraftModel
from antiphon.engine.worker.loading import compute_first_batch, load_converted, load_model, make_context
from antiphon.engine.worker.native_start import NativeStart

_MOST_PADDING = 128
"""Tokens by which two vocabularies may differ in length: files of one family are padded to different lengths."""


class LoadedDraft(msgspec.Struct, frozen=True):
    """A draft model in memory, without a context. ``num_tokens`` are those that both models know, from the first on."""

    model: TextModel
    num_tokens: int

    def added_to(self, facts: ModelFacts) -> ModelFacts:
        """Return the facts of the served model with what a cell of the draft model costs added."""
        small = self.model.facts
        return msgspec.structs.replace(
            facts,
            kv_values_k=facts.kv_values_k + small.kv_values_k,
            kv_values_v=facts.kv_values_v + small.kv_values_v,
        )

    def context(self, chosen: ContextSettings, sizes: Sizes, native: NativeStart) -> ModelContext:
        """Return a context with a slot for each running sequence, after its first batch."""
        context = make_context(self.model.context, msgspec.structs.replace(chosen, num_sequences=sizes.num_sequences))
        native.enter("computing the draft model's first batch")
        compute_first_batch(context, self.model, 1)
        return context

    def proposer(
        self, context: ModelContext, served: LoadedFile, settings: EngineSettings, sizes: Sizes, shapes: BatchShapes
    ) -> DraftModel:
        """Return what gives drafts to the texts of the ``served`` model, whose steps have these ``shapes``."""
        return DraftModel(
            context,
            num_slots=sizes.num_sequences,
            num_tokens=self.num_tokens,
            limit=min(self.model.training_context, context.cells),
            max_draft=settings.draft_tokens,
            relative_size=self.model.num_parameters / max(1, served.num_parameters),
            shapes=shapes,
            drafts_siblings=served.runtime == "openvino",
        )


def load_draft(settings: EngineSettings, native: NativeStart, served: LoadedFile) -> LoadedDraft | None:
    """Load the draft model that the settings name, None if they name none.

    Raises:
        EngineStartFailed: it cannot be loaded, or does not fit the served model.
    """
    path = settings.draft_model
    if path is None:
        return None
    if not served.traits(_ANY).may_drop_tokens:
        raise EngineStartFailed(
            f"draft_model {str(path)!r}: the memory of {served.description!r} cannot drop tokens, so it cannot verify drafts",
            hint="Leave draft_model out.",
        )
    native.enter("loading the draft model")
    files = native.draft_weights(path)
    if files.runtime == "openvino":
        model = load_converted(files.path, path)
    else:
        model = load_model(files.path, settings.gpu_layers, extra_buffers=native.extra_buffers)
    problem = _problem(model) or _difference(model.vocabulary, served.vocabulary)
    if problem or isinstance(model, EncoderModel):  # an encoder has a problem
        raise EngineStartFailed(
            f"draft_model {str(path)!r} cannot draft for {str(settings.model_path)!r}: {problem}",
            hint="Name a smaller model of the same family, which has the same vocabulary, or leave draft_model out.",
        )
    return LoadedDraft(model, min(model.vocabulary.size, served.vocabulary.size))


def _problem(model: LoadedFile) -> str:
    if f"{model.architecture}.pooling_type" in model.metadata:
        return "it embeds and does not generate"
    if not model.traits(_ANY).may_drop_tokens:
        return "its memory cannot drop the tokens of a rejected draft"
    return ""


def _difference(ours: Vocabulary, theirs: Vocabulary) -> str:
    """Return how two vocabularies differ, empty if they are the same but for padding."""
    size = min(ours.size, theirs.size)
    if max(ours.size, theirs.size) - size > _MOST_PADDING:
        return f"its vocabulary has {ours.size} tokens, not {theirs.size}"
    token = next((token for token in range(size) if ours.data[token] != theirs.data[token]), None)
    if token is not None:
        return f"its token {token} is {ours.data[token]!r}, not {theirs.data[token]!r}"
    return ""


_ANY = ContextSettings(cells=1, batch_size=1, micro_batch_size=1, num_sequences=1, threads=1, batch_threads=1)
"""Whether tokens can be dropped depends on the model alone."""
