"""Converts a GGUF file to OpenVINO's format, once. Runs in a process that may die.

OpenVINO GenAI's reader builds the graphs of text models; those of embedding models are built here, by ``encoder_graph``.
"""

import tempfile
from pathlib import Path
from typing import Any, Final

import gguf
import msgspec
import numpy as np

from antiphon.engine.model.openvino.converted import GRAPH, ORIGIN, Origin
from antiphon.engine.model.openvino.encoder_graph import build_encoder
from antiphon.engine.model.openvino.graph import page, read_paged
from antiphon.engine.model.openvino.library import OpenVinoError, genai, openvino
from antiphon.engine.model.openvino.support import ENCODERS
from antiphon.engine.model.openvino.weights import center, store_products_in_f32
from antiphon.engine.model.quantise import quantise, widen

_READABLE: Final = {"f16": (1,), "q8_0": (7,), "q4_0": (2, 14, 15)}
"""llama.cpp's numbers of the file types that the reader takes as they are: Q4_K, too, becomes four-bit integers."""
_KNOWN: Final = frozenset({"F32", "F16", "Q4_0", "Q8_0", "Q4_K", "Q6_K"})
"""The types of single tensors that it takes. Where a matrix has no whole blocks of 256 numbers, files of Q4_K have others."""
_ENCODER_FORMATS: Final = ("f16", "q8_0")


def convert(source: Path, target: Path, weight_format: str) -> None:
    """Write the folder ``target`` with the graph and the weights of ``source`` in ``weight_format``: f16, q8_0 or q4_0.

    Raises:
        OpenVinoError: the reader does not know the architecture or the type of the weights.
        QuantiseError: the weights cannot be brought into the format.
    """
    reader: Any = gguf.GGUFReader(source)
    field = reader.get_field("general.architecture")
    is_encoder = field is not None and field.contents() in ENCODERS
    if is_encoder:
        _write_encoder(source, target, weight_format)
    else:
        _write_text_model(reader, source, target, weight_format)
    num_parameters = sum(int(np.prod(tensor.shape, dtype=np.int64)) for tensor in reader.tensors)
    (target / ORIGIN).write_bytes(msgspec.json.encode(Origin(num_parameters, weight_format, is_encoder)))


def _write_encoder(source: Path, target: Path, weight_format: str) -> None:
    if weight_format not in _ENCODER_FORMATS:
        raise OpenVinoError(
            f"embedding models are converted to {' or '.join(_ENCODER_FORMATS)}, not to {weight_format}"
        )
    model = build_encoder(source, is_int8=weight_format == "q8_0")
    target.mkdir()
    openvino().save_model(model, target / GRAPH, compress_to_fp16=False)


def _write_text_model(reader: Any, source: Path, target: Path, weight_format: str) -> None:
    field = reader.get_field("general.file_type")
    file_type = None if field is None else int(field.contents())
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


def _read(file: Path) -> None:
    """Let OpenVINO GenAI read a GGUF file and leave the graph next to it."""
    try:
        genai().LLMPipeline(str(file), "CPU", enable_save_ov_model=True)
    except RuntimeError as error:
        raise OpenVinoError(f"OpenVINO cannot read the file: {str(error).strip().splitlines()[-1]}") from error
    if not (file.parent / GRAPH).exists():
        raise OpenVinoError("OpenVINO read the file but saved no graph")
