"""A GGUF encoder over llama.cpp's C API, bare: what the file does, apart from our engine."""

import ctypes
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np
from numpy.typing import NDArray

# Kept for ever: llama.cpp calls it for every later model, too.
_quiet = lib.llama_log_callback(lambda level, text, data: None)


class Encoder:
    def __init__(self, model: Any, context: Any) -> None:
        self._vocab = lib.llama_model_get_vocab(model)
        self._context = context
        self._width = lib.llama_model_n_embd(model)

    def tokens(self, text: str) -> list[int]:
        raw = text.encode()
        ids = (lib.llama_token * (len(raw) + 8))()
        return list(ids[: lib.llama_tokenize(self._vocab, raw, len(raw), ids, len(ids), True, False)])

    def embed(self, ids: list[int]) -> NDArray[np.float64]:
        batch = lib.llama_batch_init(len(ids), 0, 1)
        for position, token in enumerate(ids):
            batch.token[position], batch.pos[position], batch.logits[position] = token, position, 1
            batch.n_seq_id[position], batch.seq_id[position][0] = 1, 0
        batch.n_tokens = len(ids)
        assert lib.llama_encode(self._context, batch) == 0
        lib.llama_batch_free(batch)
        vector = np.ctypeslib.as_array(lib.llama_get_embeddings_seq(self._context, 0), (self._width,)).astype(float)
        return vector / np.linalg.norm(vector)


@contextmanager
def open_encoder(path: Path) -> Generator[Encoder]:
    """Load ``path`` as the file says itself: pooling included."""
    before, data = lib.llama_log_callback(), ctypes.c_void_p()
    lib.llama_log_get(ctypes.byref(before), ctypes.byref(data))
    lib.llama_log_set(_quiet, None)
    lib.llama_backend_init()
    model = lib.llama_model_load_from_file(str(path).encode(), lib.llama_model_default_params())
    parameters = lib.llama_context_default_params()
    parameters.embeddings, parameters.n_threads, parameters.n_threads_batch = True, 1, 1
    parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = lib.llama_model_n_ctx_train(model)
    context = lib.llama_init_from_model(model, parameters)
    try:
        yield Encoder(model, context)
    finally:
        lib.llama_free(context)
        lib.llama_model_free(model)
        lib.llama_log_set(before, data)
