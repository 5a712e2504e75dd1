"""Weights that are quantised stay so with OpenVINO, and mean what they mean in llama.cpp."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.engine.runtimes import sized
from tests.engine.tiny_models import plain_attention
from tests.installed import NO_OPENVINO, needs_llama

from antiphon.engine.model.base import LoadedFile
from antiphon.engine.model.llama import Model
from antiphon.engine.model.logits import log_probabilities

pytest.importorskip("openvino_genai", reason=NO_OPENVINO)

from antiphon.engine.model.openvino import convert as conversion
from antiphon.engine.model.openvino.convert import convert
from antiphon.engine.model.openvino.graph import read_paged
from antiphon.engine.model.openvino.library import OpenVinoError, openvino
from antiphon.engine.model.openvino.model import GRAPH, PagedModel

PROMPT = [5, 9, 2, 7, 3, 8, 4, 6] * 17
MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
FILES: dict[str, tuple[dict[str, str], int, str, str]] = {
    "Q8_0": (dict.fromkeys(("token_embd", "output", *MATRICES), "Q8_0"), 7, "q8_0", "i8"),
    "Q4_0": (dict.fromkeys(("token_embd", *MATRICES), "Q4_0") | {"output": "Q8_0"}, 2, "q4_0", "i4"),
    "Q4_K": ({"ffn_down": "Q4_K"} | dict.fromkeys(("token_embd", "output", *MATRICES[:-1]), "Q8_0"), 15, "q4_0", "u4"),
    "Q5_0 in Q4_K": ({"ffn_up": "Q5_0", "ffn_down": "Q4_K"} | dict.fromkeys(("token_embd", "output", *MATRICES[:5]), "Q8_0"), 15, "q4_0", "i8"),
}  # fmt: skip
"""Types of the matrices, what the file says of itself, the format that is nearest, and how most numbers are then stored."""


def stored(folder: Path) -> Counter[str]:
    """Return how many bytes of weights of each type a converted model has."""
    model: Any = read_paged(openvino().Core(), folder / GRAPH)
    kinds: Counter[str] = Counter()
    for node in model.get_ops():
        if node.get_type_name() == "Constant" and node.get_byte_size() >= 1024:
            kinds[node.get_element_type().get_type_name()] += node.get_byte_size()
    return kinds


def rows(model: LoadedFile) -> NDArray[np.float32]:
    context = model.context(sized())
    context.batch.add(0, 0, PROMPT, len(PROMPT))
    context.decode()
    return np.stack([log_probabilities(row).astype(np.float32) for row in context.logits()])


def _leave(model: Any) -> None:
    del model


@pytest.mark.parametrize("kind", FILES)
def test_quantised_weights_stay_small(kind: str, tmp_path: Path) -> None:
    """A converted file has integers where the GGUF file has."""
    types, file_type, weight_format, main = FILES[kind]
    source, folder = tmp_path / "model.gguf", tmp_path / "converted"
    plain_attention(source, types=types, file_type=file_type)
    convert(source, folder, weight_format)
    kinds = stored(folder)
    assert kinds[main] > 0
    assert kinds["f32"] + kinds["f16"] < 0.3 * kinds.total()


@needs_llama
@pytest.mark.parametrize("kind", FILES)
def test_quantised_weights_mean_the_same(kind: str, tmp_path: Path) -> None:
    """The log-probabilities of a converted file are those of llama.cpp."""
    types, file_type, weight_format, _ = FILES[kind]
    source, folder = tmp_path / "model.gguf", tmp_path / "converted"
    plain_attention(source, types=types, file_type=file_type)
    convert(source, folder, weight_format)
    ours, theirs = rows(PagedModel(folder, source)), rows(Model(source))
    divergence = float((np.exp(theirs) * (theirs - ours)).sum(axis=1).mean())
    assert divergence < 0.01


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
def test_signed_weights_compute_the_same_bits(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Storing integers without their zero changes no bit of a result."""
    types, file_type, weight_format, main = FILES[kind]
    source = tmp_path / "model.gguf"
    plain_attention(source, types=types, file_type=file_type)
    convert(source, tmp_path / "signed", weight_format)
    monkeypatch.setattr(conversion, "center", _leave)
    convert(source, tmp_path / "unsigned", weight_format)
    assert main in stored(tmp_path / "signed")
    assert main not in stored(tmp_path / "unsigned")
    assert np.array_equal(
        rows(PagedModel(tmp_path / "signed", source)), rows(PagedModel(tmp_path / "unsigned", source))
    )


def test_a_graph_that_was_not_made_for_serving_is_refused(tmp_path: Path) -> None:
    """A graph without the sizes of its heads, such as one that another program wrote, raises OpenVinoError."""
    operators: Any = openvino().opset13
    given = operators.parameter([1], np.float32)
    openvino().save_model(openvino().Model([operators.relu(given)], [given]), tmp_path / GRAPH)
    with pytest.raises(OpenVinoError):
        read_paged(openvino().Core(), tmp_path / GRAPH)
