"""A model file, a context over it, a batch, by llama.cpp's C API. Every C resource is owned here and freed.

Which library answers is chosen in ``native``. The C functions are typed loosely, so this module checks what it passes: an id
out of range would be an abort in native code, not an exception.
"""

import ctypes
import weakref
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from antiphon.engine.model.base import Aborted, ModelError, NoCells, Runtime, Traits
from antiphon.engine.model.llama_vocabulary import read_vocabulary
from antiphon.engine.model.native.active import api as c
from antiphon.engine.model.native.active import log as _log
from antiphon.engine.model.sizing import ContextSettings, ModelFacts

_ctypes: Any = ctypes
MAX_SEQUENCE_IDS: Final = 256
"""llama.cpp's own bound on sequence ids per context."""
_PROBE_CELLS: Final = 1024


class LlamaError(ModelError):
    """llama.cpp refused; the message carries its last log lines."""


def has_gpu() -> bool:
    """Whether llama.cpp was built with a backend that layers can be put on."""
    return bool(c.llama_supports_gpu_offload())


class Model:
    """A GGUF file in memory.

    ``extra_buffers``: let llama.cpp repack weights for faster kernels (AMX among them), into memory of their own.

    Raises:
        LlamaError: the file cannot be loaded.
    """

    def __init__(
        self, path: Path, *, gpu_layers: int | None = None, vocabulary_only: bool = False, extra_buffers: bool = True
    ) -> None:
        _log.clear()
        params = c.llama_model_default_params()
        params.n_gpu_layers = -1 if gpu_layers is None else gpu_layers
        params.vocab_only = vocabulary_only
        params.use_extra_bufts = extra_buffers
        handle: Any = c.llama_model_load_from_file(str(path).encode(), params)
        if not handle:
            raise LlamaError(_log.warnings() or "llama.cpp gave no reason")
        self.handle = handle
        self.close = weakref.finalize(self, c.llama_model_free, handle)
        self.runtime: Runtime = "llama"
        self._is_on_gpu = gpu_layers != 0 and has_gpu()
        self.metadata = dict(_metadata(handle))
        self.vocabulary = read_vocabulary(c.llama_model_get_vocab(handle), self.metadata.get("tokenizer.ggml.model"))
        self.training_context: int = c.llama_model_n_ctx_train(handle)
        self.embedding_size: int = c.llama_model_n_embd_out(handle)
        self.num_classes: int = c.llama_model_n_cls_out(handle)
        """Outputs of the classification head, where the file has one."""
        self.size_bytes: int = c.llama_model_size(handle)
        self.num_parameters: int = c.llama_model_n_params(handle)
        self.description = _text(c.llama_model_desc, handle)
        self.num_layers: int = c.llama_model_n_layer(handle)
        self.decodes_alone = not (c.llama_model_has_encoder(handle) and c.llama_model_has_decoder(handle))
        self.has_sliding_window: bool = c.llama_model_n_swa(handle) > 0

    @property
    def architecture(self) -> str:
        """The file's ``general.architecture``."""
        return self.metadata.get("general.architecture", "unknown")

    @property
    def is_embedding(self) -> bool:
        """Whether the metadata name a pooling type: such a model embeds and does not generate."""
        return f"{self.architecture}.pooling_type" in self.metadata

    @property
    def gives_vectors(self) -> bool:
        """Whether the model pools its outputs into one vector per text. A reranker does not."""
        one = (c.LLAMA_POOLING_TYPE_MEAN, c.LLAMA_POOLING_TYPE_CLS, c.LLAMA_POOLING_TYPE_LAST)
        return self._number("pooling_type") in one

    @property
    def is_reranker(self) -> bool:
        """Whether the metadata say that a text's outputs go through a classification head."""
        return self._number("pooling_type") == c.LLAMA_POOLING_TYPE_RANK

    @property
    def facts(self) -> ModelFacts:
        """The facts that the sizes of a context depend on."""
        return self._facts

    @cached_property
    def _facts(self) -> ModelFacts:
        has_state = c.llama_model_is_recurrent(self.handle) or c.llama_model_is_hybrid(self.handle)
        values_k, values_v, state_bytes = self._measured() if has_state else (*self._stated(), 0)
        return ModelFacts(
            training_context=self.training_context,
            kv_values_k=values_k,
            kv_values_v=values_v,
            has_state=has_state,
            state_bytes=state_bytes,
            attention_weight=c.llama_model_n_head(self.handle) * self.num_layers * 1e6 / max(self.num_parameters, 1),
        )

    def traits(self, settings: ContextSettings) -> Traits:
        """Return what can be done with a context of these settings.

        A sliding window overwrites its cells as it moves, by micro-batches: those before a single one are still there.
        """
        has_state = self.facts.has_state
        may_drop = not (has_state or self.has_sliding_window)
        is_one_pass = settings.micro_batch_size == settings.batch_size
        is_plain = {settings.kv_type_k, settings.kv_type_v} in ({"f16"}, {"f32"})
        is_tiled = settings.flash_attention and is_plain and not self._is_on_gpu
        return Traits(
            max_slots=MAX_SEQUENCE_IDS,
            may_drop_tokens=may_drop,
            may_undo_steps=may_drop or (is_one_pass and not has_state),
            kernels="tiled" if is_tiled else "plain",
        )

    def context(self, settings: ContextSettings) -> "Context":
        """Return a new context.

        Raises:
            LlamaError: there is no memory for it, or the model does not allow the settings.
        """
        return Context(self, settings)

    def _stated(self) -> tuple[int, int]:
        """Return how many key and value numbers a token has in all layers, from the metadata."""
        width = self._number("embedding_length") // max(c.llama_model_n_head(self.handle), 1)
        per_layer = c.llama_model_n_head_kv(self.handle) * self.num_layers
        keys, values = (self._number(f"attention.{kind}_length", width) for kind in ("key", "value"))
        return per_layer * keys, per_layer * values

    def _measured(self) -> tuple[int, int, int]:
        """Return the same and the bytes of a sequence's state, measured on a small context: layers of such a model differ.

        Raises:
            LlamaError: memory is short, or llama.cpp does not report the size.
        """
        size = ContextSettings(
            cells=_PROBE_CELLS, batch_size=1, micro_batch_size=1, num_sequences=1, threads=1, batch_threads=1
        )
        context = Context(self, size)
        context.close()
        if context.kv_bytes is None or context.state_bytes is None:
            raise LlamaError("llama.cpp does not report how large the memory of a context is")
        values = context.kv_bytes // (_PROBE_CELLS * 2)  # of two bytes each
        return values // 2, values - values // 2, context.state_bytes

    def _number(self, key: str, default: int = 0) -> int:
        return int(self.metadata.get(f"{self.architecture}.{key}", default))


class Context:
    """A model's KV cache and compute buffers. Not thread-safe, but for ``abort``.

    Raises:
        LlamaError: there is no memory for it, or the model does not allow the settings.
    """

    def __init__(self, model: Model, settings: ContextSettings) -> None:
        _log.clear()
        # strlen(b"") is false and strlen(b"\1") is true: an abort callback that reads a flag
        # hundreds of times a step without ever taking Python's lock.
        self._abort_flag = ctypes.create_string_buffer(2)
        params = _context_params(settings)
        params.abort_callback = ctypes.cast(ctypes.CDLL(None).strlen, c.ggml_abort_callback)
        params.abort_callback_data = ctypes.cast(self._abort_flag, ctypes.c_void_p)
        handle: Any = c.llama_init_from_model(model.handle, params)
        if not handle:
            raise LlamaError(_log.warnings() or "llama.cpp could not make a context")
        self._model = model
        self._handle = handle
        self.close = weakref.finalize(self, c.llama_free, handle)
        self._memory: Any = c.llama_get_memory(handle)
        self._has_memory = bool(self._memory)
        self.cells: int = c.llama_n_ctx(handle)
        self.kv_bytes = _log.allocated_bytes("KV") if self._has_memory else 0
        """Bytes allocated for keys and values, from llama.cpp's log. None: not reported."""
        self.state_bytes = _log.allocated_bytes("RS") if self._has_memory else 0
        """Bytes allocated for the states of recurrent layers."""
        self.batch = Batch(settings.batch_size)
        self._row_size = model.num_classes if settings.ranks or model.is_reranker else model.embedding_size
        self._rows = 0

    @property
    def memory_bytes(self) -> int | None:
        """Bytes of keys, values and states together. None: not reported."""
        return None if self.kv_bytes is None or self.state_bytes is None else self.kv_bytes + self.state_bytes

    def decode(self) -> None:
        """Compute ``self.batch``; afterwards ``logits`` has a row for each token that requested one.

        Raises:
            NoCells: the KV cache is full. Aborted: ``abort`` was called. LlamaError: any other failure.
        """
        code = c.llama_decode(self._handle, self.batch.native())
        self._rows = self.batch.num_outputs
        if code == 0:
            return
        if code == 1:
            raise NoCells(f"no KV cells for a batch of {self.batch.size} tokens")
        if code == 2:  # noqa: PLR2004 - llama.h: 2 is "aborted"
            raise Aborted
        raise LlamaError(f"llama_decode returned {code}: {_log.warnings()}")

    def set_threads(self, threads: int) -> None:
        """Use this many threads from the next decode on."""
        c.llama_set_n_threads(self._handle, threads, threads)

    def abort(self, requested: bool) -> None:
        """Stop the running decode at its next graph node, or allow decodes again. Safe from any thread."""
        self._abort_flag[0] = b"\1" if requested else b"\0"

    def logits(self) -> NDArray[np.float32]:
        """Return a view of shape (outputs, vocabulary); it changes with the next decode."""
        return _array(c.llama_get_logits(self._handle), (self._rows, self._model.vocabulary.size))

    def embeddings(self, count: int) -> NDArray[np.float32]:
        """Return the pooled outputs of sequences 0 to ``count`` - 1 in the last batch, not normalised, as rows of a copy.

        A row is a vector, or the outputs of the classification head.
        """
        rows = np.empty((count, self._row_size), np.float32)
        for sequence, address in enumerate(range(rows.ctypes.data, rows.ctypes.data + rows.nbytes, rows.strides[0])):
            ctypes.memmove(address, c.llama_get_embeddings_seq(self._handle, sequence), rows.strides[0])
        return rows

    def copy(self, source: int, target: int, start: int, end: int) -> None:
        """Let ``target`` share the cells of ``source`` at positions ``start <= p < end``."""
        c.llama_memory_seq_cp(self._memory, source, target, start, end)

    def remove(self, slot: int, start: int = 0) -> bool:
        """Drop ``slot`` from its cells from position ``start`` on. False: this memory cannot do it."""
        return bool(c.llama_memory_seq_rm(self._memory, slot, start, -1))

    def clear(self) -> None:
        """Empty the cache."""
        if self._has_memory:
            c.llama_memory_clear(self._memory, False)


class Batch:
    """Up to ``capacity`` tokens for one decode, each in one sequence. Filled by slices, without a Python loop per token."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.size = 0
        self._tokens = np.zeros(capacity, np.int32)
        self._positions = np.zeros(capacity, np.int32)
        self._sequences = np.zeros(capacity, np.int32)
        self._outputs = np.zeros(capacity, np.int8)
        self._counts = np.ones(capacity, np.int32)
        first = self._sequences.ctypes.data
        self._sequence_pointers = np.arange(capacity, dtype=np.uint64) * np.uint64(4) + np.uint64(first)

    def clear(self) -> None:
        """Forget all tokens."""
        self.size = 0

    def add(
        self, slot: int, start: int, tokens: list[int], num_outputs: int, padding: int = 0, *, is_prompt: bool = True
    ) -> None:
        """Append tokens; see the contract. What ``is_prompt`` says, llama.cpp's kernels do not distinguish."""
        del is_prompt
        first, end = self.size, self.size + len(tokens)
        last = end + padding
        self._tokens[first:end] = tokens
        self._tokens[end:last] = tokens[-1]
        self._positions[first:last] = np.arange(start, start + last - first)
        self._sequences[first:last] = slot
        self._outputs[first:last] = 0
        self._outputs[end - num_outputs : end] = 1
        self.size = last

    @property
    def num_outputs(self) -> int:
        """Rows that the decode yields."""
        return int(self._outputs[: self.size].sum())

    @cached_property
    def _struct(self) -> Any:
        """The C struct over the arrays. Filling a batch needs no library."""
        return c.llama_batch(
            n_tokens=0,
            token=_pointer(self._tokens, c.llama_token),
            pos=_pointer(self._positions, c.llama_pos),
            n_seq_id=_pointer(self._counts, ctypes.c_int32),
            seq_id=_pointer(self._sequence_pointers, ctypes.POINTER(ctypes.c_int32)),
            logits=_pointer(self._outputs, ctypes.c_int8),
        )

    def native(self) -> Any:
        """Return the C struct, valid until the next change."""
        self._struct.n_tokens = self.size
        return self._struct


def _pointer(array: NDArray[Any], kind: Any) -> Any:
    return _ctypes.cast(array.ctypes.data, _ctypes.POINTER(kind))


def _array(pointer: Any, shape: tuple[int, ...]) -> NDArray[np.float32]:
    view: NDArray[np.float32] = np.ctypeslib.as_array(pointer, shape)
    return view


def _context_params(settings: ContextSettings) -> Any:
    params = c.llama_context_default_params()
    params.n_ctx = settings.cells
    params.n_batch = settings.batch_size
    params.n_ubatch = settings.micro_batch_size
    params.n_seq_max = settings.num_sequences
    params.n_threads = settings.threads
    params.n_threads_batch = settings.batch_threads
    params.type_k = _kv_type(settings.kv_type_k)
    params.type_v = _kv_type(settings.kv_type_v)
    params.flash_attn_type = int(settings.flash_attention)
    params.embeddings = settings.embeddings
    if settings.ranks:
        params.pooling_type = c.LLAMA_POOLING_TYPE_RANK
    params.kv_unified = True
    params.swa_full = False
    params.no_perf = True
    return params


def _kv_type(name: str) -> int:
    return getattr(c, f"GGML_TYPE_{name.upper()}")


def _text(function: Any, *arguments: Any) -> str:
    """Call a C function of the form (..., buffer, size) -> length and return its text."""
    size = 256
    while True:
        buffer = ctypes.create_string_buffer(size)
        length = function(*arguments, buffer, size)
        if length < size:
            return buffer.value.decode("utf-8", "replace")
        size = length + 1


def _metadata(handle: Any) -> Iterator[tuple[str, str]]:
    for index in range(c.llama_model_meta_count(handle)):
        key = _text(c.llama_model_meta_key_by_index, handle, index)
        yield key, _text(c.llama_model_meta_val_str_by_index, handle, index)
