"""A compiled model and the pages of its KV cache."""

import time
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from antiphon.engine.model.base import Aborted, NoCells
from antiphon.engine.model.openvino.batch import PagedBatch, PassLimits
from antiphon.engine.model.openvino.library import OpenVinoError, openvino
from antiphon.engine.model.openvino.options import compile_options
from antiphon.engine.model.openvino.pages import PAGE, PageCopy, PageTables
from antiphon.engine.model.openvino.row_counts import filled_up
from antiphon.engine.model.openvino.support import KV_PRECISIONS
from antiphon.engine.model.sizing import ContextSettings

_STORAGE: Final = {"bf16": np.uint16, "f16": np.uint16, "f32": np.uint32, "u8": np.uint8}
"""Numbers of the same size for OpenVINO's types of cached values, some of which numpy does not know."""


_LONG_STEP_S: Final = 0.3
"""What is computed in steps that take longer is not made ready: making the kernels takes little of their time."""
_PASS_BYTES: Final = 64 * 1024 * 1024
"""What logits, and what keys and values in the order of the kernels, may take each while a pass is computed; a request keeps it."""
_LEAST_OUTPUTS: Final = 32
_PROVIDED_TOKENS: Final = 16_384
"""Tokens that there is memory for before they come. More of a larger cache takes memory when it is first used."""
_PROVIDED_BYTES: Final = 4 * 1024 * 1024
"""As much of it at once, for which a request may have to wait."""
_WRITTEN_BYTES: Final = 4096
"""The smallest page of memory of an operating system: one write to each makes the system provide it."""


class PagedContext:
    """Pages of keys and values for all slots, and the request that computes over them. Not thread-safe, but for ``abort``.

    Raises:
        OpenVinoError: the model does not compile, or there is no memory.
    """

    def __init__(self, core: Any, model: Any, settings: ContextSettings) -> None:
        self.cells = settings.cells
        self.batch = PagedBatch(settings.batch_size)
        # Besides whole pages, each slot may hold a page that is not full.
        self._tables = PageTables(-(-settings.cells // PAGE) + settings.num_sequences)
        self._is_aborting = False
        try:
            compiled = core.compile_model(
                model,
                "CPU",
                compile_options(core, settings) | {"KV_CACHE_PRECISION": KV_PRECISIONS[settings.kv_type_k]},
            )
            self._request: Any = compiled.create_infer_request()
            self.caches: list[NDArray[Any]] = self._allocate(compiled)
            self.limits = _limits(compiled, self.caches)
        except (RuntimeError, MemoryError) as error:
            raise OpenVinoError(str(error)) from error
        self.memory_bytes: int | None = sum(cache.nbytes for cache in self.caches)
        self._logits = np.empty((0, 0), np.float32)

    def decode(self) -> None:
        """Compute ``batch``; see the contract.

        Raises:
            NoCells: there are no free pages. Aborted: ``abort`` was called. OpenVinoError: any other failure.
        """
        for piece in self.batch.pieces:
            self._copy_pages(self._tables.extend(piece.slot, piece.start, piece.end))
        first, *others = self.batch.passes(self.limits)
        self._logits = self._compute(first)
        if others:
            rows = np.empty((self.batch.num_outputs, self._logits.shape[1]), np.float32)
            rows[: (end := first.num_outputs)] = self._logits
            for batch in others:
                start, end = end, end + batch.num_outputs
                rows[start:end] = self._compute(batch)
            self._logits = rows

    def _compute(self, batch: PagedBatch) -> NDArray[np.float32]:
        """Return a view of the logits of one pass."""
        self._set_inputs(batch)
        if self._is_aborting:
            raise Aborted
        try:
            self._request.infer()
        except RuntimeError as error:
            raise OpenVinoError(str(error)) from error
        rows: NDArray[np.float32] = self._request.get_output_tensor(0).data
        return rows.reshape(-1, rows.shape[-1])[: batch.num_outputs]

    def abort(self, requested: bool) -> None:
        """Stop the next decode, or allow decodes again. Safe from any thread.

        A decode that runs goes on to its end: OpenVINO's graph keeps the sizes of a step that was stopped in the middle, and
        then fails in a step of another size.
        """
        self._is_aborting = requested

    def logits(self) -> NDArray[np.float32]:
        """Return a view of shape (outputs, vocabulary); it changes with the next decode."""
        return self._logits

    def copy(self, source: int, target: int, start: int, end: int) -> None:
        """Let ``target`` hold what ``source`` holds at positions ``start <= p < end``. At most one page is copied."""
        self._copy_pages(self._tables.share(source, target, start, end))

    def remove(self, slot: int, start: int = 0) -> bool:
        """Drop what ``slot`` holds from position ``start`` on."""
        self._tables.truncate(slot, start)
        return True

    def clear(self) -> None:
        """Empty every slot."""
        self._tables.clear()

    def warm_up(self, num_sequences: int) -> Iterator[None]:
        """Do in advance, a part at a time, what requests would wait for: making kernels, and getting memory for pages.

        The first step of each size waits for its kernels, so steps of the usual sizes are computed. What slots hold stays
        as it is; where pages are lacking, nothing more is computed.
        """
        yield from self._make_kernels(num_sequences)
        for cache in self.caches:
            yield from self._provide(cache)

    def _make_kernels(self, num_sequences: int) -> Iterator[None]:
        texts = [(size, False) for size in range(2, num_sequences + 1)]
        sizes = sorted({filled_up(size) for size in range(num_sequences + 1, self.batch.capacity + 1)})
        for size, is_prompt in texts + [(size, True) for size in sizes]:
            if size > self.batch.capacity:
                continue
            slots = range(-1, -2 if is_prompt else -1 - size, -1)
            self.batch.clear()
            for slot in slots:
                self.batch.add(slot, 0, [0] * size if is_prompt else [0], 1, is_prompt=is_prompt)
            began = time.monotonic()
            try:
                self.decode()
            except NoCells:
                return
            except Aborted:
                self.abort(False)  # a cancellation that came after its step
            finally:
                self.batch.clear()
                for slot in slots:
                    self.remove(slot)
            yield
            if is_prompt and time.monotonic() - began > _LONG_STEP_S:
                return

    def _provide(self, cache: NDArray[Any]) -> Iterator[None]:
        """Have the system provide the memory of the pages that are used first.

        It does so at a page's first write, two MiB at a time, which takes as long as computing a hundred tokens.
        """
        pages = cache[: _PROVIDED_TOKENS // PAGE].reshape(-1).view(np.uint8)
        for start in range(0, pages.size, _PROVIDED_BYTES):
            part = pages[start : start + _PROVIDED_BYTES]
            part[::_WRITTEN_BYTES] |= 0
            part[-1:] |= 0
            yield

    def _set_inputs(self, batch: PagedBatch) -> None:
        tensor = openvino().Tensor
        inputs = batch.inputs(self._tables)
        for name, values in inputs.by_name.items():
            self._request.set_tensor(name, tensor(values))
        self._request.set_tensor("max_context_len", tensor(np.array(inputs.max_context_len, np.int32)))

    def _copy_pages(self, copies: list[PageCopy]) -> None:
        for source, target in copies:
            for cache in self.caches:
                cache[target] = cache[source]

    def _allocate(self, compiled: Any) -> list[NDArray[Any]]:
        """Give the model its pages, and one to fill up with. The system provides their memory when it is first written."""
        module = openvino()
        caches: list[NDArray[Any]] = []
        for given in compiled.inputs:
            if "cache." not in given.any_name:
                continue
            shape = [self._tables.num_pages + 1, *(size.get_length() for size in list(given.partial_shape)[1:])]
            cache = np.zeros(shape, _STORAGE[given.element_type.get_type_name()])
            self._request.set_tensor(given.any_name, module.Tensor(cache, module.Shape(shape), given.element_type))
            caches.append(cache)
        return caches


def _limits(compiled: Any, caches: list[NDArray[Any]]) -> PassLimits:
    """Return what a pass may need. The kernels put keys and values of one layer, of every sequence, in another order."""
    vocabulary_size = compiled.output(0).partial_shape[-1].get_length()
    number_bytes = compiled.get_property("INFERENCE_PRECISION_HINT").size
    per_token = 2 * max(cache.size // (cache.shape[0] * PAGE) for cache in caches) * number_bytes
    return PassLimits(max(_LEAST_OUTPUTS, _PASS_BYTES // (4 * vocabulary_size)), _PASS_BYTES // per_token)
