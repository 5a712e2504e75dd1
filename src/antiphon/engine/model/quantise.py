"""Writes a copy of a GGUF file with its weights in another type, with the ``gguf`` package's numpy code.

llama.cpp's own ``llama_model_quantize`` is not in every library, so one way serves all of them. As there, vectors, norms and
small tensors keep their type. In a ``q4_0`` copy the output matrix becomes Q8_0, which ``gguf`` can write (there: Q6_K).
"""

import struct
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import gguf
import numpy as np
from gguf.quants import dequantize, quantize
from numpy.typing import NDArray

_FILE_TYPES: Final = {"f16": 1, "q4_0": 2, "q8_0": 7, "bf16": 32}
"""llama.cpp's numbers of file types."""
_KEPT: Final = ("_norm.weight", "ffn_gate_inp", "ffn_gate_tid2eid", "altup", "laurel", "per_layer_model_proj", "position_embd",
                "token_types", "ssm_conv1d", "shortconv.conv", "indexer", "time_mix_")  # fmt: skip
"""Parts of names of matrices that keep their type: small ones that llama.cpp wants precise."""
_HEADER: Final = struct.Struct("<IIQQ")
_SUPPORTED_VERSION: Final = 3


class QuantiseError(Exception):
    """The file cannot be read or has weights of a type that cannot be converted."""


def quantise(source: Path, target: Path, file_type: str) -> None:
    """Write ``source`` to ``target`` with its matrices in ``file_type``: f16, bf16, q8_0 or q4_0.

    Raises:
        QuantiseError: see there.
    """
    reader = _read(source)
    _write(target, reader, _types(reader, gguf.GGMLQuantizationType[file_type.upper()]), _FILE_TYPES[file_type])


def widen(source: Path, target: Path, known: Collection[str]) -> None:
    """Write ``source`` to ``target`` with those tensors in Q8_0 whose type is not one of ``known``, such as "Q4_K".

    Raises:
        QuantiseError: as ``quantise``.
    """
    reader = _read(source)
    wide = gguf.GGMLQuantizationType.Q8_0
    types = [tensor.tensor_type if tensor.tensor_type.name in known else wide for tensor in reader.tensors]
    field = reader.get_field("general.file_type")
    _write(target, reader, types, 0 if field is None else int(field.contents()))


def _read(source: Path) -> Any:
    try:
        reader = gguf.GGUFReader(source)
    except (ValueError, KeyError, IndexError, OverflowError) as error:
        raise QuantiseError(f"{str(source)!r} cannot be read: {error}") from error
    parts = reader.get_field("split.count")
    if parts is not None and int(parts.contents()) > 1:
        raise QuantiseError(
            f"{str(source)!r} is one of {parts.contents()} files; only models in one file are converted"
        )
    if not reader.tensors:
        raise QuantiseError(f"{str(source)!r} holds no weights")
    return reader


def _write(target: Path, reader: Any, types: list[Any], file_type: int) -> None:
    with target.open("wb") as file:
        _write_head(file, reader, types, file_type)
        for tensor, kind in zip(reader.tensors, types, strict=True):
            _write_tensor(file, tensor, kind, reader.alignment)


def _types(reader: Any, wanted: Any) -> list[Any]:
    names = {tensor.name for tensor in reader.tensors}
    output = "output.weight" if "output.weight" in names else "token_embd.weight"
    return [_type(tensor, wanted, is_output=tensor.name == output) for tensor in reader.tensors]


def _type(tensor: Any, wanted: Any, *, is_output: bool) -> Any:
    if len(tensor.shape) < 2 or not tensor.name.endswith(".weight") or any(part in tensor.name for part in _KEPT):  # noqa: PLR2004 - vectors
        return tensor.tensor_type
    types = gguf.GGMLQuantizationType
    if is_output and wanted == types.Q4_0:
        wanted = types.Q8_0
    block_size: int = gguf.GGML_QUANT_SIZES[wanted][0]
    return types.F16 if tensor.shape[0] % block_size else wanted


def _write_head(file: BinaryIO, reader: Any, types: list[Any], file_type: int) -> None:
    """Write what comes before the weights. The metadata are copied as bytes: every string stays what it is."""
    start = reader.tensors[0].field.offset
    head = bytearray(reader.data[:start].tobytes())
    magic, version, num_tensors, num_keys = _HEADER.unpack_from(head)
    if version != _SUPPORTED_VERSION:
        head[: _HEADER.size] = _HEADER.pack(magic, _SUPPORTED_VERSION, num_tensors, num_keys)
    if (field := reader.fields.get("general.file_type")) is not None:
        struct.pack_into("<I", head, field.offset + sum(part.nbytes for part in field.parts[:-1]), file_type)
    file.write(head)
    offset = 0
    for tensor, kind in zip(reader.tensors, types, strict=True):
        name = tensor.name.encode()
        shape = [int(size) for size in tensor.shape]
        file.write(
            struct.pack(f"<Q{len(name)}sI{len(shape)}QIQ", len(name), name, len(shape), *shape, int(kind), offset)
        )
        offset = _aligned(offset + _num_bytes(shape, kind), reader.alignment)
    file.write(bytes(_aligned(file.tell(), reader.alignment) - file.tell()))


def _write_tensor(file: BinaryIO, tensor: Any, kind: Any, alignment: int) -> None:
    start = file.tell()
    if kind == tensor.tensor_type:
        file.write(tensor.data.tobytes())
    else:
        file.writelines(rows.tobytes() for rows in _converted(tensor, kind))
    file.write(bytes(_aligned(file.tell() - start, alignment) - (file.tell() - start)))


def _converted(tensor: Any, kind: Any) -> Iterator[NDArray[Any]]:
    """Yield the rows of a matrix in another type, some million values at a time."""
    rows = tensor.data.reshape(-1, tensor.data.shape[-1])
    step = max(1, 2**23 // int(tensor.shape[0]))
    for first in range(0, len(rows), step):
        try:
            values: NDArray[np.float32] = dequantize(rows[first : first + step], tensor.tensor_type)
        except NotImplementedError as error:
            raise QuantiseError(f"{tensor.name}: {error}") from error
        yield quantize(values, kind)


def _num_bytes(shape: list[int], kind: Any) -> int:
    block_size, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    return int(np.prod(shape, dtype=np.int64)) // block_size * block_bytes


def _aligned(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment
