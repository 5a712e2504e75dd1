"""A converted model that generates text."""

from typing import Final

from antiphon.engine.model.base import Traits
from antiphon.engine.model.openvino.context import PagedContext
from antiphon.engine.model.openvino.converted import GRAPH, ConvertedModel
from antiphon.engine.model.openvino.graph import read_paged
from antiphon.engine.model.openvino.library import openvino
from antiphon.engine.model.sizing import ContextSettings, ModelFacts

_MOST_SLOTS: Final = 256


class PagedModel(ConvertedModel):
    """A folder that ``convert`` made of a text model, and the GGUF file that it was made of.

    Raises:
        OpenVinoError: the folder cannot be read. ModelError: the file's vocabulary cannot.
    """

    @property
    def facts(self) -> ModelFacts:
        """The facts that the sizes of a context depend on. Cached tokens cost no time: a row reads its own pages only."""
        heads = self._number("attention.head_count")
        width = self._number("embedding_length") // max(heads, 1)
        per_layer = self._number("attention.head_count_kv", heads) * self._number("block_count")
        return ModelFacts(
            training_context=self.training_context,
            kv_values_k=per_layer * self._number("attention.key_length", width),
            kv_values_v=per_layer * self._number("attention.value_length", width),
            has_state=False,
        )

    def traits(self, settings: ContextSettings) -> Traits:
        """Return what can be done with a context of these settings."""
        return Traits(max_slots=min(_MOST_SLOTS, 4 * settings.num_sequences), kernels="paged")

    def context(self, settings: ContextSettings) -> PagedContext:
        """Compile the graph and allocate pages.

        Raises:
            OpenVinoError: the graph does not compile, or there is no memory.
        """
        core = openvino().Core()
        return PagedContext(core, read_paged(core, self.folder / GRAPH), settings)
