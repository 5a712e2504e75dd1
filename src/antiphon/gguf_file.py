"""Reads the head of a GGUF file: its metadata and the descriptions of its tensors; finds the files of a split model.

Follows the GGUF specification, versions 2 and 3, little-endian. Nothing beyond the file's end is believed: every length in it
is checked before it is used.
"""

import mmap
import re
import struct
from collections.abc import Container, Iterator
from pathlib import Path, PurePath
from typing import Any, Final, TypeVar

import msgspec

Scalar = int | float | bool | str
Array = list[Any]
"""The values of an array; of one with arrays in it, lists."""

_SCALARS: Final = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_UINT32: Final = 4
_STRING: Final = 8
_ARRAY: Final = 9
_UINT64: Final = 10
_SUPPORTED_VERSIONS: Final = (2, 3)
_LENGTH: Final = struct.Struct("<Q")
_MAX_STRING_BYTES: Final = 1 << 26
_MAX_COUNT: Final = 1 << 26
_MAX_DIMENSIONS: Final = 4
_MAGIC: Final = b"GGUF"
_FIRST_OF_SEVERAL: Final = re.compile(r"(?P<stem>.+)-00001-of-(?P<count>\d{5})\.gguf")

AnyPath = TypeVar("AnyPath", bound=PurePath)


class MalformedGGUFError(Exception):
    """The file is not GGUF, or is cut off; the message says what is wrong with "it"."""


class Tensor(msgspec.Struct, frozen=True):
    """The description of a tensor: ``kind`` is ggml's number of its type, ``offset`` counts from ``GGUFHead.data_start``."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int


_CLASSIFIER = frozenset({"cls.weight", "cls.output.weight"})


class GGUFHead(msgspec.Struct, frozen=True):
    """``metadata`` are the scalars and texts, ``arrays`` those that were asked for, ``lengths`` the length of every array."""

    version: int
    metadata: dict[str, Scalar]
    arrays: dict[str, Array]
    lengths: dict[str, int]
    tensors: tuple[Tensor, ...]
    data_start: int

    @property
    def has_classifier(self) -> bool:
        """Whether the file has the tensors of a classification head, without which llama.cpp ranks by noise."""
        return any(tensor.name in _CLASSIFIER for tensor in self.tensors)


def files_of(first: AnyPath) -> tuple[AnyPath, ...]:
    """Return the files of the model whose first file this is; most models are one file."""
    match = _FIRST_OF_SEVERAL.fullmatch(first.name)
    count = int(match["count"]) if match else 0
    if match is None or not count:
        return (first,)
    return tuple(first.with_name(f"{match['stem']}-{number:05}-of-{count:05}.gguf") for number in range(1, count + 1))


def read_head(path: Path, arrays: Container[str] = ()) -> GGUFHead:
    """Read the head of a file, with the values of those arrays whose keys are in ``arrays``.

    Raises:
        MalformedGGUFError: see there.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        if not path.stat().st_size:
            raise MalformedGGUFError("it is not a GGUF file")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reader(data, arrays).head()


class _Reader:
    """Reads values one after the other."""

    def __init__(self, data: mmap.mmap, arrays: Container[str]) -> None:
        self._data = data
        self._size = len(data)
        self._wanted = arrays
        self._at = 0

    def head(self) -> GGUFHead:
        magic = self._data[:4]
        if magic != _MAGIC:
            raise MalformedGGUFError("it is not a GGUF file" + (" but a web page" if magic[:1] == b"<" else ""))
        self._at = len(_MAGIC)
        version = int(self._scalar(_UINT32))
        if version not in _SUPPORTED_VERSIONS:
            raise MalformedGGUFError(f"GGUF version {version} is not supported")
        num_tensors, num_keys = self._count(), self._count()
        metadata: dict[str, Scalar] = {}
        arrays: dict[str, Array] = {}
        lengths: dict[str, int] = {}
        for _ in range(num_keys):
            key, kind = self._string(), int(self._scalar(_UINT32))
            if kind != _ARRAY:
                metadata[key] = self._string() if kind == _STRING else self._scalar(kind)
                continue
            is_wanted = key in self._wanted
            lengths[key], values = self._array(0, is_wanted=is_wanted)
            if is_wanted:
                arrays[key] = values
        tensors = tuple(self._tensor() for _ in range(num_tensors))
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment <= 0:
            raise MalformedGGUFError(f"its alignment is {alignment!r}")
        return GGUFHead(version, metadata, arrays, lengths, tensors, -(-self._at // alignment) * alignment)

    def _move(self, count: int) -> int:
        """Go ``count`` bytes on and return where it went from."""
        start = self._at
        if count > self._size - start:
            raise MalformedGGUFError("it is truncated")
        self._at += count
        return start

    def _scalar(self, kind: int) -> Scalar:
        layout = _SCALARS.get(kind)
        if layout is None:
            raise MalformedGGUFError(f"it has a value of the unknown type {kind}")
        start = self._move(struct.calcsize(layout))
        return struct.unpack_from(layout, self._data, start)[0]

    def _count(self) -> int:
        count = int(self._scalar(_UINT64))
        if count > _MAX_COUNT:
            raise MalformedGGUFError(f"it announces {count} entries")
        return count

    def _string(self) -> str:
        ((start, end),) = self._texts(1)
        return self._text(start, end)

    def _text(self, start: int, end: int) -> str:
        # The specification asks for UTF-8; files with names in Latin-1 exist, and such a name is for people alone.
        return self._data[start:end].decode("utf-8", "replace")

    def _texts(self, count: int) -> Iterator[tuple[int, int]]:
        """Go on over texts, and yield where each begins and ends. A vocabulary has hundreds of thousands."""
        data, size, unpack, width, at = self._data, self._size, _LENGTH.unpack_from, _LENGTH.size, self._at
        for _ in range(count):
            start = at + width
            if start > size:
                raise MalformedGGUFError("it is truncated")
            (length,) = unpack(data, at)
            if length > _MAX_STRING_BYTES:
                raise MalformedGGUFError(f"it announces a text of {length} bytes")
            at = start + length
            if at > size:
                raise MalformedGGUFError("it is truncated")
            yield start, at
        self._at = at

    def _tensor(self) -> Tensor:
        name, num_dimensions = self._string(), int(self._scalar(_UINT32))
        if num_dimensions > _MAX_DIMENSIONS:
            raise MalformedGGUFError(f"its tensor {name!r} has {num_dimensions} dimensions")
        shape = tuple(int(self._scalar(_UINT64)) for _ in range(num_dimensions))
        return Tensor(name, shape, int(self._scalar(_UINT32)), int(self._scalar(_UINT64)))

    def _array(self, depth: int, *, is_wanted: bool) -> tuple[int, Array]:
        """Return the length of an array and its values, none if they are not wanted."""
        kind, count = int(self._scalar(_UINT32)), self._count()
        values: Array = []
        if kind == _ARRAY and depth < _MAX_DIMENSIONS:
            for _ in range(count):
                _, inner = self._array(depth + 1, is_wanted=is_wanted)
                if is_wanted:
                    values.append(inner)
        elif kind == _STRING:
            for start, end in self._texts(count):
                if is_wanted:
                    values.append(self._text(start, end))
        elif kind in _SCALARS:
            layout = f"<{count}{_SCALARS[kind][1]}"
            start = self._move(struct.calcsize(layout))
            if is_wanted:
                values = list(struct.unpack_from(layout, self._data, start))
        else:
            raise MalformedGGUFError(f"it has an array of the unknown type {kind}")
        return count, values
