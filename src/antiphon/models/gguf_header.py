"""Read the header of a GGUF file without loading it: enough to refuse a file that is not GGUF or is cut off.

Follows the GGUF specification, versions 2 and 3, little-endian.
"""

import struct
from pathlib import Path
from typing import BinaryIO

import msgspec

from antiphon.models.errors import CorruptModel

Scalar = int | float | bool | str

_SCALARS = {0: "B", 1: "b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_MAX_STRING_BYTES = 1 << 26
_MAX_COUNT = 1 << 26
_MAX_DIMENSIONS = 4
_POOLS_BY_RANK = 4
_CLASSIFIER = frozenset({"cls.weight", "cls.output.weight"})

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


class _Malformed(Exception):  # noqa: N818  # private; always becomes CorruptModel
    pass


def read_header(path: Path) -> GGUFHeader:
    """Return the header of ``path``. Raises ``CorruptModel`` for a file that is not GGUF or lacks part of its tensors."""
    try:
        with path.open("rb") as file:
            return _Reader(file, path.stat().st_size).header()
    except (_Malformed, struct.error) as error:
        raise CorruptModel(
            path, f"cannot be used: {error}", hint="Fetch it again, or check that it is a complete GGUF file."
        ) from error


class _Reader:
    """Reads values one after the other; ``size`` bounds what may be believed."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size

    def header(self) -> GGUFHeader:
        magic = self._take(4) if self._size >= 4 else b""  # noqa: PLR2004  # the magic's length
        if magic != b"GGUF":
            raise _Malformed("it is not a GGUF file" + (" but a web page" if magic[:1] == b"<" else ""))
        version = self._scalar(4)
        if version not in (2, 3):
            raise _Malformed(f"GGUF version {version} is not supported")
        num_tensors, num_keys = self._count(), self._count()
        metadata = dict(self._pair() for _ in range(num_keys))
        names = self._check_tensors(num_tensors, int(metadata.get("general.alignment", 32)))
        return GGUFHeader(int(version), num_tensors, metadata, not names.isdisjoint(_CLASSIFIER))

    def _take(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) != count:
            raise _Malformed("it is truncated")
        return data

    def _scalar(self, kind: int) -> Scalar:
        if kind not in _SCALARS:
            raise _Malformed(f"it has a value of the unknown type {kind}")
        layout = _SCALARS[kind]
        return struct.unpack(layout, self._take(struct.calcsize(layout)))[0]

    def _count(self) -> int:
        count = int(self._scalar(10))
        if count > _MAX_COUNT:
            raise _Malformed(f"it announces {count} entries")
        return count

    def _string(self) -> str:
        length = int(self._scalar(10))
        if length > _MAX_STRING_BYTES:
            raise _Malformed(f"it announces a text of {length} bytes")
        # The specification asks for UTF-8; files with names in Latin-1 exist, and such a name is for people alone.
        return self._take(length).decode("utf-8", "replace")

    def _pair(self) -> tuple[str, Scalar]:
        key = self._string()
        kind = int(self._scalar(4))
        if kind == _ARRAY:
            return f"{key}[]", self._skip_array(depth=0)
        return key, self._string() if kind == _STRING else self._scalar(kind)

    def _skip_array(self, depth: int) -> int:
        kind, count = int(self._scalar(4)), self._count()
        if kind == _ARRAY and depth < _MAX_DIMENSIONS:
            for _ in range(count):
                self._skip_array(depth + 1)
        elif kind == _STRING:
            for _ in range(count):
                self._skip(int(self._scalar(10)))
        elif kind in _SCALARS:
            self._skip(count * struct.calcsize(_SCALARS[kind]))
        else:
            raise _Malformed(f"it has an array of the unknown type {kind}")
        return count

    def _skip(self, count: int) -> None:
        if self._file.tell() + count > self._size:
            raise _Malformed("it is truncated")
        self._file.seek(count, 1)

    def _check_tensors(self, num_tensors: int, alignment: int) -> set[str]:
        """Return the names of the tensors; raises for a file that ends before one of them."""
        ends: list[tuple[int, str]] = []
        for _ in range(num_tensors):
            name = self._string()
            num_dimensions = int(self._scalar(4))
            if num_dimensions > _MAX_DIMENSIONS:
                raise _Malformed(f"its tensor {name!r} has {num_dimensions} dimensions")
            elements = 1
            for _ in range(num_dimensions):
                elements *= int(self._scalar(10))
            kind, offset = int(self._scalar(4)), int(self._scalar(10))
            per_block, block_bytes = _BLOCKS.get(kind, (1, 0))
            ends.append((offset + elements // per_block * block_bytes, name))
        if alignment <= 0:
            raise _Malformed(f"its alignment is {alignment}")
        start = -(-self._file.tell() // alignment) * alignment
        end, name = max(ends, default=(0, ""))
        if start + end > self._size:
            raise _Malformed(f"it is truncated: the tensor {name!r} ends at byte {start + end} of {self._size}")
        return {name for _, name in ends}
