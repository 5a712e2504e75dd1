"""A folder that holds a converted model."""

from pathlib import Path
from typing import Final

import msgspec

from antiphon.engine.model.base import Runtime
from antiphon.engine.model.openvino.tokens import read_tokens
from antiphon.engine.model.openvino.weights import forget_file

GRAPH: Final = "openvino_model.xml"
"""The graph's file in the folder of a converted model; the weights lie next to it."""
WEIGHTS: Final = "openvino_model.bin"
ORIGIN: Final = "origin.json"


class Origin(msgspec.Struct, frozen=True):
    """What a converted model keeps of its GGUF file."""

    num_parameters: int
    weight_format: str
    is_encoder: bool = False


class ConvertedModel:
    """A folder that ``convert`` made, and the GGUF file that it was made of.

    Raises:
        OpenVinoError: the folder cannot be read. ModelError: the file's vocabulary cannot.
    """

    def __init__(self, folder: Path, source: Path) -> None:
        origin = msgspec.json.decode((folder / ORIGIN).read_bytes(), type=Origin)
        tokens = read_tokens(source)
        self.runtime: Runtime = "openvino"
        self.folder = folder
        self.vocabulary = tokens.vocabulary
        self.metadata = tokens.metadata
        self.architecture = self.metadata.get("general.architecture", "unknown")
        self.num_parameters = origin.num_parameters
        self.size_bytes = (folder / WEIGHTS).stat().st_size
        self.description = f"{self.architecture} {self.num_parameters / 1e6:.0f}M {origin.weight_format}"
        self.training_context = self._number("context_length")
        self.embedding_size = self._number("embedding_length")
        self.decodes_alone = True
        self._tokens = tokens  # owns what the vocabulary points to

    def forget_weights(self) -> None:
        """Give back the memory of weights that a context has packed; to be called after its first batches."""
        forget_file(self.folder / WEIGHTS)

    def _number(self, key: str, default: int = 0) -> int:
        return int(self.metadata.get(f"{self.architecture}.{key}", default))
