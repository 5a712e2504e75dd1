"""The self-test of a library: the logits that it compares with are right, and wrong ones fail it."""

from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from numpy.typing import NDArray

from antiphon.engine.model.native import selftest_model as model
from antiphon.engine.model.native.choose import Examined, choose_tested
from antiphon.engine.model.native.library import Candidate
from antiphon.engine.model.native.selftest import TOLERANCE, Result, _check, known_logits

Array = NDArray[np.float64]


def logits(weights: dict[str, Array]) -> Array:
    """The model in numpy, in double precision: what llama.cpp should compute after the last token of the prompt."""
    rows = weights["token_embd.weight"][list(model.PROMPT)]
    size = len(rows)
    mask = np.triu(np.full((size, size), -np.inf), 1)
    for layer in range(model.LAYERS):

        def of(name: str, layer: int = layer) -> Array:
            return weights[f"blk.{layer}.{name}.weight"]

        normal = rms_norm(rows)
        query = rotated(heads(normal @ of("attn_q").T, model.HEADS))
        key = np.repeat(rotated(heads(normal @ of("attn_k").T, model.KV_HEADS)), model.HEADS // model.KV_HEADS, 0)
        value = np.repeat(heads(normal @ of("attn_v").T, model.KV_HEADS), model.HEADS // model.KV_HEADS, 0)
        scores = query @ key.transpose(0, 2, 1) / np.sqrt(model.HEAD_SIZE) + mask
        share = np.exp(scores - scores.max(-1, keepdims=True))
        seen = (share / share.sum(-1, keepdims=True)) @ value
        rows = rows + seen.transpose(1, 0, 2).reshape(size, -1) @ of("attn_output").T
        normal = rms_norm(rows)
        gate = normal @ of("ffn_gate").T
        rows = rows + (gate / (1 + np.exp(-gate)) * (normal @ of("ffn_up").T)) @ of("ffn_down").T
    return rms_norm(rows)[-1] @ weights["output.weight"].T


def rms_norm(rows: Array) -> Array:
    return rows / np.sqrt((rows**2).mean(-1, keepdims=True) + model.EPSILON)


def heads(rows: Array, count: int) -> Array:
    return rows.reshape(len(rows), count, model.HEAD_SIZE).transpose(1, 0, 2)


def rotated(values: Array) -> Array:
    """Rotary positions over neighbouring pairs, as files of the architecture llama have them."""
    half = model.HEAD_SIZE // 2
    angles = np.outer(np.arange(values.shape[1]), model.ROPE_BASE ** (-np.arange(half) / half))
    even, odd = values[..., ::2], values[..., 1::2]
    turned = np.stack([even * np.cos(angles) - odd * np.sin(angles), even * np.sin(angles) + odd * np.cos(angles)], -1)
    return turned.reshape(values.shape)


@pytest.mark.parametrize("weight_type", model.TYPES)
def test_the_known_logits_are_those_of_the_model(weight_type: str) -> None:
    """Within the tolerance of the self-test, by an implementation that shares nothing with llama.cpp."""
    kind = GGMLQuantizationType[weight_type.upper()]
    weights = {
        name: (dequantize(quantize(values, kind), kind) if values.ndim > 1 else values).astype(np.float64)
        for name, values in model.weights().items()
    }
    expected = np.array(known_logits()[weight_type])
    error = np.sqrt(((logits(weights)[: len(expected)] - expected) ** 2).mean() / (expected**2).mean())
    assert error < TOLERANCE / 2


@pytest.mark.parametrize(
    ("change", "fails"), [(1.0, False), (1.01, False), (1.2, True), (0.0, True), (float("nan"), True)]
)
def test_wrong_logits_fail_the_test(change: float, fails: bool) -> None:
    """Rounding passes; anything more, and what is not a number, does not."""
    known = known_logits()["bf16"]
    computed = np.array(known, np.float32) * np.float32(change)
    if fails:
        with pytest.raises(SystemExit, match="wrong logits with bf16 weights"):
            _check(computed, known, "bf16")
    else:
        _check(computed, known, "bf16")


def examined(kind: str, f16: float, bf16: float, q8_0: float, q4_0: float) -> Examined:
    candidate = Candidate(kind, Path(f"/{kind}"), "1")  # pyright: ignore[reportArgumentType]
    return Examined(candidate=candidate, result=Result((), {"f16": f16, "bf16": bf16, "q8_0": q8_0, "q4_0": q4_0}))


@pytest.mark.parametrize(
    ("file_type", "chosen"),
    [
        (1, "native"),
        (32, "prebuilt"),
        (7, "native"),
        (2, "prebuilt"),
        (15, "prebuilt"),
        (None, "prebuilt"),
        (3, "native"),
    ],
)
def test_the_fastest_for_the_files_type_is_chosen(file_type: int | None, chosen: str) -> None:
    """Q4_1 is served as bf16 or Q8_0, whichever is faster; K-quants are taken to be like Q4_0; a small gain does not count."""
    failed = Examined(candidate=Candidate("llama-cpp-python", Path("/c"), "1"), problem="it died")
    every = [failed, examined("prebuilt", 2.0, 1.0, 2.0, 1.04), examined("native", 1.0, 1.0, 0.9, 1.0)]
    best = choose_tested(every, file_type)
    assert best is not None
    assert best.candidate.kind == chosen
    assert choose_tested([failed], file_type) is None
