"""Reading safetensors: an 8-byte little-endian length, a JSON header, then the tensors' bytes."""

import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from antiphon.models.errors import CorruptModel

_DTYPES: dict[str, str] = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "|u1"}
_MAX_HEADER_BYTES = 100_000_000
"""The limit of the reference implementation."""


class _Tensor(msgspec.Struct, frozen=True):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


def read_safetensors(path: Path) -> dict[str, NDArray[Any]]:
    """Return the tensors by name, as read-only views into the mapped file.

    Raises ``CorruptModel`` when header and file do not agree, or a tensor has a type that numpy lacks.
    """
    size = path.stat().st_size
    header_bytes = int(np.fromfile(path, "<u8", count=1)[0]) if size >= 8 else size  # noqa: PLR2004  # the length's own bytes
    start = 8 + header_bytes
    if header_bytes > _MAX_HEADER_BYTES or start > size:
        raise _corrupt(path, "is not a safetensors file, or is truncated")
    with path.open("rb") as file:
        file.seek(8)
        try:
            entries = msgspec.json.decode(file.read(header_bytes), type=dict[str, msgspec.Raw])
            entries.pop("__metadata__", None)  # free text about the file
            header = {name: msgspec.json.decode(entry, type=_Tensor) for name, entry in entries.items()}
        except msgspec.DecodeError as error:
            raise _corrupt(path, f"has no readable safetensors header ({error})") from error
    data = np.memmap(path, np.uint8, mode="r", offset=start) if size > start else np.empty(0, np.uint8)
    return {name: _view(path, name, entry, data) for name, entry in header.items()}


def _view(path: Path, name: str, entry: _Tensor, data: NDArray[np.uint8]) -> NDArray[Any]:
    if entry.dtype not in _DTYPES:
        raise _corrupt(path, f"holds {name!r} as {entry.dtype}, which is not supported")
    begin, end = entry.data_offsets
    dtype = np.dtype(_DTYPES[entry.dtype])
    if not 0 <= begin <= end <= data.size or end - begin != math.prod(entry.shape) * dtype.itemsize:
        raise _corrupt(path, f"is truncated: {name!r} lies outside of it")
    return data[begin:end].view(dtype).reshape(entry.shape)


def _corrupt(path: Path, reason: str) -> CorruptModel:
    return CorruptModel(path, reason, hint="Fetch it again with: antiphon models pull")
