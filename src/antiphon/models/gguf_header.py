"""Read the header of a GGUF file without loading it: enough to refuse a file that is not GGUF or is cut off."""

import math
from pathlib import Path

import msgspec

from antiphon.gguf_file import GGUFHead, MalformedGGUFError, Scalar, read_head
from antiphon.models.errors import CorruptModel

_POOLS_BY_RANK = 4
_BLOCKS: dict[int, tuple[int, int]] = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292),
    16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82),
    23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2),
    34: (256, 54), 35: (256, 66), 39: (32, 17), 40: (64, 36), 41: (128, 18),
}  # fmt: skip
"""Elements and bytes per block of each ggml type. Of a type not listed only the start of a tensor is checked."""


class GGUFHeader(msgspec.Struct, frozen=True):
    """``metadata`` has scalars and strings; of an array only its length, under the key with ``[]`` behind it.

    ``has_classifier``: the file has the tensors of a classification head.
    """

    version: int
    num_tensors: int
    metadata: dict[str, Scalar]
    has_classifier: bool = False

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", ""))

    @property
    def is_embedding(self) -> bool:
        """Whether the model is made for embeddings: it says how to pool the tokens of a text into one vector."""
        return self.of_architecture("pooling_type") not in (None, 0) and not self.is_reranker

    @property
    def is_reranker(self) -> bool:
        """Whether the model is made to rank: it says so, or has a classification head and no other pooling."""
        pooling = self.of_architecture("pooling_type")
        return pooling == _POOLS_BY_RANK or (pooling in (None, 0) and self.has_classifier)

    def of_architecture(self, key: str) -> Scalar | None:
        """Return the architecture's own value of ``key``, for example ``context_length``."""
        return self.metadata.get(f"{self.architecture}.{key}")


def read_header(path: Path) -> GGUFHeader:
    """Return the header of ``path``. Raises ``CorruptModel`` for a file that is not GGUF or lacks part of its tensors."""
    try:
        head = read_head(path)
        _check_tensors(head, path.stat().st_size)
    except MalformedGGUFError as error:
        raise CorruptModel(
            path, f"cannot be used: {error}", hint="Fetch it again, or check that it is a complete GGUF file."
        ) from error
    lengths: dict[str, Scalar] = {f"{key}[]": length for key, length in head.lengths.items()}
    return GGUFHeader(head.version, len(head.tensors), head.metadata | lengths, head.has_classifier)


def _check_tensors(head: GGUFHead, size: int) -> None:
    ends = [(0, "")]
    for tensor in head.tensors:
        per_block, block_bytes = _BLOCKS.get(tensor.kind, (1, 0))
        ends.append((tensor.offset + math.prod(tensor.shape) // per_block * block_bytes, tensor.name))
    end, name = max(ends)
    if head.data_start + end > size:
        raise MalformedGGUFError(f"it is truncated: the tensor {name!r} ends at byte {head.data_start + end} of {size}")
