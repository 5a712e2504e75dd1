"""An encoder that embeds, compiled, and the pooling of its rows."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from antiphon.engine.model.base import Traits
from antiphon.engine.model.openvino.converted import GRAPH, ConvertedModel
from antiphon.engine.model.openvino.encoder_batch import EncoderBatch
from antiphon.engine.model.openvino.library import OpenVinoError, openvino
from antiphon.engine.model.openvino.options import compile_options
from antiphon.engine.model.sizing import ContextSettings, ModelFacts

_POOLING: Final = {"1": "mean", "2": "cls", "3": "last"}
"""llama.cpp's numbers of the ways to make one vector of a text's rows. A reranker has another one."""
_MOST_TEXTS: Final = 256
_WARM_ROWS: Final = (16, 8, 24, 32, 256, 40, 48, 56, 64)
"""Rows of steps that are common enough to be made ready in advance, one text each but for the largest."""
_WARM_TEXT: Final = 16


class EncoderContext:
    """A compiled encoder and the request that computes over it. Nothing is kept from one batch to the next.

    Raises:
        OpenVinoError: the model does not compile, or there is no memory.
    """

    def __init__(self, core: Any, graph: Path, pooling: str, settings: ContextSettings) -> None:
        self.cells = settings.cells
        self.batch = EncoderBatch(settings.batch_size)
        self.memory_bytes: int | None = 0
        self._pooling = pooling
        self._vectors = np.empty((0, 0), np.float32)
        try:
            self._request: Any = core.compile_model(
                graph, "CPU", compile_options(core, settings)
            ).create_infer_request()
        except (RuntimeError, MemoryError) as error:
            raise OpenVinoError(str(error)) from error

    def decode(self) -> None:
        """Compute ``batch``.

        Raises:
            OpenVinoError: the runtime refused.
        """
        tensor = openvino().Tensor
        for name, values in self.batch.inputs().items():
            self._request.set_tensor(name, tensor(values))
        try:
            self._request.infer()
        except RuntimeError as error:
            raise OpenVinoError(str(error)) from error
        self._vectors = self._pooled(self._request.get_output_tensor(0).data)

    def embeddings(self, count: int) -> NDArray[np.float32]:
        """Return the pooled vectors of the first ``count`` texts of the last batch, not normalised."""
        return self._vectors[:count]

    def clear(self) -> None:
        """Do nothing: there is no cache."""

    def warm_up(self) -> Iterator[None]:
        """Compute steps of the usual sizes, one at a time: the first of each size waits for kernels to be made."""
        for size in _WARM_ROWS:
            if size > self.batch.capacity:
                continue
            self.batch.clear()
            length = size if size <= 4 * _WARM_TEXT else _WARM_TEXT
            for slot in range(size // length):
                self.batch.add(slot, 0, [0] * length, length)
            self.decode()
            self.batch.clear()
            yield

    def _pooled(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return one vector for each text; the sum of a text's rows does not depend on where they are."""
        starts, lengths = self.batch.starts, self.batch.lengths
        if self._pooling == "mean":
            sums: NDArray[np.float32] = np.add.reduceat(rows[: self.batch.size], starts, axis=0)
            return sums / lengths[:, None].astype(np.float32)
        return rows[starts if self._pooling == "cls" else starts + lengths - 1]


class EncoderModel(ConvertedModel):
    """A folder that ``convert`` made of an embedding model, and the GGUF file that it was made of.

    Raises:
        OpenVinoError: the folder cannot be read. ModelError: the file's vocabulary cannot.
    """

    @property
    def gives_vectors(self) -> bool:
        """Whether the model pools its outputs into one vector per text."""
        return self._pooling in _POOLING

    @property
    def is_reranker(self) -> bool:
        """Whether a text's outputs go through a classification head: such files are not converted."""
        return False

    @property
    def num_classes(self) -> int:
        """Outputs of the classification head: there is none."""
        return 0

    @property
    def facts(self) -> ModelFacts:
        """The facts that the sizes of a context depend on: there is no cache."""
        return ModelFacts(training_context=self.training_context, kv_values_k=0, kv_values_v=0, has_state=False)

    def traits(self, settings: ContextSettings) -> Traits:  # noqa: ARG002 - they are the same for all
        """Return what can be done with a context of these settings."""
        return Traits(max_slots=_MOST_TEXTS, kernels="padded")

    def context(self, settings: ContextSettings) -> EncoderContext:
        """Compile the graph.

        Raises:
            OpenVinoError: the graph does not compile, or there is no memory.
        """
        return EncoderContext(openvino().Core(), self.folder / GRAPH, _POOLING[self._pooling], settings)

    @property
    def _pooling(self) -> str:
        return self.metadata.get(f"{self.architecture}.pooling_type", "")
