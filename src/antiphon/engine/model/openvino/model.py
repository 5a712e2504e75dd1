"""A converted model file. Its vocabulary is llama.cpp's, read from the GGUF file: both runtimes give the same tokens."""

from pathlib import Path
from typing import Final

import msgspec

from antiphon.engine.model.base import Runtime, Traits
from antiphon.engine.model.llama import Model
from antiphon.engine.model.openvino.context import PagedContext
from antiphon.engine.model.openvino.graph import read_paged
from antiphon.engine.model.openvino.library import openvino
from antiphon.engine.model.openvino.weights import forget_file
from antiphon.engine.model.sizing import ContextSettings, ModelFacts

GRAPH: Final = "openvino_model.xml"
"""The graph's file in the folder of a converted model; the weights lie next to it."""
WEIGHTS: Final = "openvino_model.bin"
ORIGIN: Final = "origin.json"
_MOST_SLOTS: Final = 256


class Origin(msgspec.Struct, frozen=True):
    """What a converted model keeps of its GGUF file."""

    num_parameters: int
    weight_format: str


class PagedModel:
    """A folder that ``convert`` made, and the GGUF file that it was made of.

    Raises:
        OpenVinoError: the folder cannot be read. LlamaError: the file's vocabulary cannot.
    """

    def __init__(self, folder: Path, source: Path) -> None:
        origin = msgspec.json.decode((folder / ORIGIN).read_bytes(), type=Origin)
        tokens = Model(source, vocabulary_only=True)
        self.runtime: Runtime = "openvino"
        self.vocabulary = tokens.vocabulary
        self.metadata = tokens.metadata
        self.architecture = tokens.architecture
        self.num_parameters = origin.num_parameters
        self.size_bytes = (folder / WEIGHTS).stat().st_size
        self.description = f"{self.architecture} {self.num_parameters / 1e6:.0f}M {origin.weight_format}"
        self.training_context = self._number("context_length")
        self.embedding_size = self._number("embedding_length")
        self.decodes_alone = True
        self._tokens = tokens  # owns what the vocabulary points to
        self._graph = folder / GRAPH

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
        return PagedContext(core, read_paged(core, self._graph), settings)

    def forget_weights(self) -> None:
        """Give back the memory of weights that a context has packed; to be called after its first batches."""
        forget_file(self._graph.with_name(WEIGHTS))

    def _number(self, key: str, default: int = 0) -> int:
        return int(self.metadata.get(f"{self.architecture}.{key}", default))
