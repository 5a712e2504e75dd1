"""A copy of a model file with its weights in another type, by numpy code."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize
from tests.engine.tiny_models import KINDS
from tests.installed import needs_llama

from antiphon.engine.model.llama import Model
from antiphon.engine.model.quantise import QuantiseError, quantise

TYPES = gguf.GGMLQuantizationType


def tensors(path: Path) -> dict[str, Any]:
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


@needs_llama
@pytest.mark.parametrize("file_type", ["f16", "bf16", "q8_0", "q4_0"])
@pytest.mark.parametrize("kind", KINDS)
def test_matrices_change_their_type_and_all_else_stays(kind: str, file_type: str, tmp_path: Path) -> None:
    """Metadata byte by byte, vectors and small tensors bit by bit, matrices within the rounding of the type; llama.cpp loads it."""
    source, target = tmp_path / "source.gguf", tmp_path / "target.gguf"
    KINDS[kind](source)
    quantise(source, target, file_type)
    before, after = tensors(source), tensors(target)
    assert list(before) == list(after)
    changed = {name for name in before if after[name].tensor_type != before[name].tensor_type}
    assert changed
    bound = 0.2 if file_type == "q4_0" else 0.01
    for name, tensor in after.items():
        if name in changed:
            assert len(tensor.shape) > 1
            values = dequantize(tensor.data, tensor.tensor_type)
            assert np.abs(values - before[name].data).max() <= bound * np.abs(before[name].data).max()
        else:
            assert np.array_equal(tensor.data, before[name].data)
    assert after["output.weight"].tensor_type == (TYPES.Q8_0 if file_type == "q4_0" else TYPES[file_type.upper()])
    assert Model(target).metadata == Model(source).metadata


def test_quantised_weights_are_converted_too(tmp_path: Path) -> None:
    """From the type they have to the other; the number of the file's type is written where there is one."""
    source, middle, target = tmp_path / "a.gguf", tmp_path / "b.gguf", tmp_path / "c.gguf"
    KINDS["sliding-window"](source)
    quantise(source, middle, "q8_0")
    quantise(middle, target, "bf16")
    assert tensors(target)["output.weight"].tensor_type == TYPES.BF16


@pytest.mark.parametrize("content", [b"", b"GGUF nonsense", b"GGUF" + bytes(20)])
def test_what_is_no_model_is_refused(content: bytes, tmp_path: Path) -> None:
    """With the file's name."""
    (tmp_path / "broken.gguf").write_bytes(content)
    with pytest.raises(QuantiseError, match=r"broken\.gguf"):
        quantise(tmp_path / "broken.gguf", tmp_path / "target.gguf", "bf16")
