"""Converts a GGUF file to OpenVINO's format, once, with OpenVINO GenAI's reader. Runs in a process that may die."""

import tempfile
from pathlib import Path
from typing import Any, Final

import gguf
import msgspec
import numpy as np

from antiphon.engine.model.openvino.graph import page, read_paged
from antiphon.engine.model.openvino.library import OpenVinoError, genai, openvino
from antiphon.engine.model.openvino.model import GRAPH, ORIGIN, Origin
from antiphon.engine.model.openvino.weights import center, store_products_in_f32
from antiphon.engine.model.quantise import quantise, widen

_READABLE: Final = {"f16": (1,), "q8_0": (7,), "q4_0": (2, 14, 15)}
"""llama.cpp's numbers of the file types that the reader takes as they are: Q4_K, too, becomes four-bit integers."""
_KNOWN: Final = frozenset({"F32", "F16", "Q4_0", "Q8_0", "Q4_K", "Q6_K"})
"""The types of single tensors that it takes. Where a matrix has no whole blocks of 256 numbers, files of Q4_K have others."""


def convert(source: Path, target: Path, weight_format: str) -> None:
    """Write the folder ``target`` with the graph and the weights of ``source`` in ``weight_format``: f16, q8_0 or q4_0.

    Raises:
        OpenVinoError: the reader does not know the architecture or the type of the weights.
        QuantiseError: the weights cannot be brought into the format.
    """
    reader: Any = gguf.GGUFReader(source)
    field = reader.get_field("general.file_type")
    file_type = None if field is None else int(field.contents())
    num_parameters = sum(int(np.prod(tensor.shape, dtype=np.int64)) for tensor in reader.tensors)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".openvino-") as name:
        folder = Path(name)
        file = folder / "model.gguf"
        if file_type not in _READABLE[weight_format]:
            quantise(source, file, weight_format)
        elif all(tensor.tensor_type.name in _KNOWN for tensor in reader.tensors):
            file.symlink_to(source.resolve())
        else:
            widen(source, file, _KNOWN)
        _read(file)
        model: Any = openvino().Core().read_model(folder / GRAPH)
        if weight_format == "f16":
            store_products_in_f32(model)
        else:
            center(model)
        page(model)
        target.mkdir()
        openvino().save_model(model, target / GRAPH, compress_to_fp16=False)
    read_paged(openvino().Core(), target / GRAPH)  # fails here rather than at every start
    origin = Origin(num_parameters, weight_format)
    (target / ORIGIN).write_bytes(msgspec.json.encode(origin))


def _read(file: Path) -> None:
    """Let OpenVINO GenAI read a GGUF file and leave the graph next to it."""
    try:
        genai().LLMPipeline(str(file), "CPU", enable_save_ov_model=True)
    except RuntimeError as error:
        raise OpenVinoError(f"OpenVINO cannot read the file: {str(error).strip().splitlines()[-1]}") from error
    if not (file.parent / GRAPH).exists():
        raise OpenVinoError("OpenVINO read the file but saved no graph")
