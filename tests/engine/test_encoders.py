"""Embedding models in both runtimes: the same vectors, and each text's own, whatever is computed with it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.engine.runtimes import RUNTIMES, load_encoder, sized
from tests.engine.tiny_models import CONTEXT, ENCODERS, hybrid
from tests.installed import NO_OPENVINO

from antiphon.engine.model.base import PoolingContext, PoolingModel
from antiphon.engine.model.openvino.support import unsupported

Vectors = NDArray[np.float32]
AreSame = Callable[[Vectors, Vectors], bool]
POOLING = {"mean": gguf.PoolingType.MEAN, "cls": gguf.PoolingType.CLS, "last": gguf.PoolingType.LAST}
_CLOSE = 2e-4
"""1 - cosine, between runtimes: llama.cpp takes GELU from a table in half precision."""
_ROUNDING = 2e-5
"""Of vectors of unit length that llama.cpp computed in batches of other sizes."""


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Model files of random weights, by architecture and pooling."""
    folder = tmp_path_factory.mktemp("encoders")

    def file(architecture: str, pooling: str) -> Path:
        path = folder / f"{architecture}-{pooling}.gguf"
        if not path.exists():
            ENCODERS[architecture](path, POOLING[pooling])
        return path

    return file


def context_of(model: PoolingModel, **given: Any) -> PoolingContext:
    sizes = {"cells": CONTEXT, "batch_size": CONTEXT, "micro_batch_size": CONTEXT, "num_sequences": 64}
    return model.context(sized(**sizes, embeddings=True, **given))


def embed(context: PoolingContext, texts: list[list[int]]) -> Vectors:
    """Return vectors of unit length."""
    context.clear()
    context.batch.clear()
    for slot, text in enumerate(texts):
        context.batch.add(slot, 0, text, len(text))
    context.decode()
    rows = context.embeddings(len(texts))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def texts_of(*lengths: int, seed: int = 0) -> list[list[int]]:
    draw = np.random.default_rng(seed)
    return [draw.integers(3, 250, length).tolist() for length in lengths]


@pytest.mark.parametrize("pooling", POOLING)
@pytest.mark.parametrize("architecture", ENCODERS)
def test_both_runtimes_give_the_same_vectors(
    architecture: str, pooling: str, files: Callable[[str, str], Path]
) -> None:
    """Of texts of one token to as many as fit, alone and together, for each way of pooling."""
    first, second = (context_of(load_encoder(runtime, files(architecture, pooling))) for runtime in RUNTIMES)
    for texts in ([[7]], texts_of(1, 2, 3, 15, 16, 17, 33, 64, 100), texts_of(700), texts_of(CONTEXT)):
        cosines = (embed(first, texts) * embed(second, texts)).sum(axis=1)
        assert 1 - cosines.min() < _CLOSE


@pytest.fixture(scope="session", params=RUNTIMES)
def model(request: pytest.FixtureRequest, files: Callable[[str, str], Path]) -> PoolingModel:
    """A tiny BERT in each runtime."""
    return load_encoder(request.param, files("bert", "mean"))


@pytest.fixture(scope="session")
def context(model: PoolingModel) -> PoolingContext:
    """A context of it."""
    return context_of(model)


@pytest.fixture
def are_same(model: PoolingModel) -> AreSame:
    """Whether vectors are equal: bit by bit in OpenVINO, within rounding in llama.cpp."""
    tolerance = 0 if model.traits(sized()).kernels == "padded" else _ROUNDING
    return lambda ours, theirs: bool(np.abs(ours - theirs).max() <= tolerance)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.integers(1, 130), min_size=1, max_size=12), st.integers(0, 2**32))
def test_a_vector_does_not_depend_on_what_is_computed_with_it(
    context: PoolingContext, are_same: AreSame, lengths: list[int], seed: int
) -> None:
    """A text alone, and the same text anywhere in a batch of others of any length."""
    texts = texts_of(*lengths, seed=seed)
    together = embed(context, texts)
    alone = np.concatenate([embed(context, [text]) for text in texts])
    assert are_same(together, alone)


@pytest.mark.parametrize("architecture", ENCODERS)
@pytest.mark.parametrize(
    "chosen", [{"threads": 2, "batch_threads": 2}, {"kv_type_k": "f16", "kv_type_v": "f16"}], ids=["threads", "bf16"]
)
def test_openvinos_vectors_are_bit_equal_in_every_type(
    architecture: str, chosen: dict[str, Any], files: Callable[[str, str], Path]
) -> None:
    """On several threads, in half precision where the processor has it, and with weights of eight bits."""
    for weight_format in ("f16", "q8_0"):
        context = context_of(load_encoder("openvino", files(architecture, "mean"), weight_format), **chosen)
        texts = texts_of(3, 40, 17, 64, 90, 16, 130, 1)
        alone = np.concatenate([embed(context, [text]) for text in texts])
        for start in range(len(texts)):
            order = [*range(start, len(texts)), *range(start)]
            for size in (2, 5, 8):
                assert np.array_equal(embed(context, [texts[at] for at in order[:size]]), alone[order[:size]])


@pytest.mark.parametrize("architecture", ENCODERS)
def test_weights_of_eight_bits_turn_vectors_little(architecture: str, files: Callable[[str, str], Path]) -> None:
    """Less than the bound under which such weights may be chosen."""
    exact, rounded = (
        context_of(load_encoder("openvino", files(architecture, "mean"), weight_format))
        for weight_format in ("f16", "q8_0")
    )
    texts = texts_of(5, 20, 60)
    assert (embed(exact, texts) * embed(rounded, texts)).sum(axis=1).min() > 1 - 1e-3


def test_a_context_has_what_was_asked_for(model: PoolingModel, context: PoolingContext) -> None:
    """Its cells, a bounded batch, and no memory that grows with texts; the model says what it is."""
    assert context.cells >= CONTEXT
    assert context.batch.capacity == CONTEXT
    assert model.gives_vectors
    assert model.embedding_size == embed(context, [[5]]).shape[1]
    assert model.traits(sized()).max_slots >= 64


@pytest.mark.parametrize(
    ("name", "changed", "says"),
    [
        (b"blk.1.attn_output_norm.bias", b"blk.1.attn_quaint_norm.bias", "the file has no tensor 'blk.1.attn_output_norm.bias'"),
        (b"blk.1.attn_output.bias", b"blk.1.attn_q_norm.bias", "an encoder of this kind has no tensor 'blk.1.attn_q_norm.bias'"),
    ],
)  # fmt: skip
def test_tensors_that_are_not_those_of_a_plain_encoder_are_refused(
    name: bytes, changed: bytes, says: str, tmp_path: Path
) -> None:
    """A variant of the architecture, as one that normalises its queries, is not served as if it were plain."""
    pytest.importorskip("openvino_genai", reason=NO_OPENVINO)
    from antiphon.engine.model.openvino.encoder_graph import build_encoder  # noqa: PLC0415 - not everywhere
    from antiphon.engine.model.openvino.library import OpenVinoError  # noqa: PLC0415 - not everywhere

    path = tmp_path / "variant.gguf"
    ENCODERS["bert"](path, POOLING["mean"])
    path.write_bytes(path.read_bytes().replace(name, changed))
    with pytest.raises(OpenVinoError) as caught:
        build_encoder(path, is_int8=False)
    assert str(caught.value) == says


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    """By its name, before its tensors are read."""
    pytest.importorskip("openvino_genai", reason=NO_OPENVINO)
    from antiphon.engine.model.openvino.encoder_graph import build_encoder  # noqa: PLC0415 - not everywhere
    from antiphon.engine.model.openvino.library import OpenVinoError  # noqa: PLC0415 - not everywhere

    path = tmp_path / "hybrid.gguf"
    hybrid(path, POOLING["mean"])
    with pytest.raises(OpenVinoError, match="'lfm2' is not one of bert, nomic-bert"):
        build_encoder(path, is_int8=False)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({}, ""),
        ({"bert.pooling_type": "4"}, "one vector"),
        ({"bert.attention.causal": "true"}, "causal"),
        ({"bert.expert_count": "8"}, "expert_count = 8"),
        ({"bert.rope.scaling.type": "yarn"}, "rope.scaling.type = yarn"),
        ({"general.architecture": "gemma-embedding", "gemma-embedding.pooling_type": "1"}, "'gemma-embedding'"),
    ],
)
def test_what_is_not_built_is_told_before_it_is_converted(changed: dict[str, str], says: str) -> None:
    """From the metadata alone."""
    metadata = {"general.architecture": "bert", "bert.pooling_type": "1", "bert.attention.causal": "false"} | changed
    reason = unsupported(metadata)
    assert says in reason
    assert bool(reason) is bool(says)
