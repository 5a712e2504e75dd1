"""A GGUF encoder over llama.cpp's C API, bare: what the file does, apart from our engine's batches and contexts."""

import ctypes
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.installed import HAS_LLAMA, NO_LLAMA

from antiphon.engine.model.native.active import api


class Encoder:
    def __init__(self, model: Any, context: Any) -> None:
        self._vocab = api.llama_model_get_vocab(model)
        self._context = context
        self._width = api.llama_model_n_embd_out(model)

    def tokens(self, text: str) -> list[int]:
        raw = text.encode()
        ids = (ctypes.c_int32 * (len(raw) + 8))()
        return list(ids[: api.llama_tokenize(self._vocab, raw, len(raw), ids, len(ids), True, False)])

    def embed(self, ids: list[int]) -> NDArray[np.float64]:
        size = len(ids)
        sequence = (ctypes.c_int32 * 1)(0)
        batch = api.llama_batch(
            n_tokens=size,
            token=(ctypes.c_int32 * size)(*ids),
            pos=(ctypes.c_int32 * size)(*range(size)),
            n_seq_id=(ctypes.c_int32 * size)(*[1] * size),
            seq_id=(ctypes.POINTER(ctypes.c_int32) * size)(*[sequence] * size),
            logits=(ctypes.c_int8 * size)(*[1] * size),
        )
        assert api.llama_decode(self._context, batch) == 0
        vector = np.ctypeslib.as_array(api.llama_get_embeddings_seq(self._context, 0), (self._width,)).astype(float)
        return vector / np.linalg.norm(vector)


@contextmanager
def open_encoder(path: Path) -> Generator[Encoder]:
    """Load ``path`` as the file says itself: pooling included. The test is skipped where llama.cpp is not installed."""
    if not HAS_LLAMA:
        pytest.skip(NO_LLAMA)
    model = api.llama_model_load_from_file(str(path).encode(), api.llama_model_default_params())
    parameters = api.llama_context_default_params()
    parameters.embeddings, parameters.n_threads, parameters.n_threads_batch = True, 1, 1
    parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = api.llama_model_n_ctx_train(model)
    context = api.llama_init_from_model(model, parameters)
    try:
        yield Encoder(model, context)
    finally:
        api.llama_free(context)
        api.llama_model_free(model)
