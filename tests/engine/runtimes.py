"""Contexts of both runtimes over a tiny model of random weights, for tests that every runtime passes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.engine.plain_engine import DATA
from tests.installed import HAS_LLAMA, HAS_OPENVINO, NO_LLAMA, NO_OPENVINO

from antiphon.engine.model.base import Aborted, ModelContext, PoolingModel, TextModel
from antiphon.engine.model.llama import Model
from antiphon.engine.model.logits import Logits
from antiphon.engine.model.sizing import ContextSettings

RUNTIMES = ("llama", "openvino")


def load(runtime: str, source: Path) -> TextModel:
    """Return a model in a runtime, converted next to its file where that is needed."""
    if runtime == "llama":
        if not HAS_LLAMA:
            pytest.skip(NO_LLAMA)
        return Model(source)
    if not HAS_OPENVINO:
        pytest.skip(NO_OPENVINO)
    # Imported late: where OpenVINO is missing, the rest of the tests must run.
    from antiphon.engine.model.openvino.convert import convert  # noqa: PLC0415
    from antiphon.engine.model.openvino.model import PagedModel  # noqa: PLC0415

    folder = source.with_suffix(".openvino")
    if not folder.exists():
        convert(source, folder, "f16")
    return PagedModel(folder, source)


def load_encoder(runtime: str, source: Path, weight_format: str = "f16") -> PoolingModel:
    """Return an embedding model in a runtime, converted next to its file where that is needed."""
    if runtime == "llama":
        if not HAS_LLAMA:
            pytest.skip(NO_LLAMA)
        return Model(source)
    if not HAS_OPENVINO:
        pytest.skip(NO_OPENVINO)
    from antiphon.engine.model.openvino.convert import convert  # noqa: PLC0415 - as above
    from antiphon.engine.model.openvino.encoder import EncoderModel  # noqa: PLC0415 - as above

    folder = source.with_suffix(f".{weight_format}.openvino")
    if not folder.exists():
        convert(source, folder, weight_format)
    return EncoderModel(folder, source)


def sized(cells: int = 2048, **given: Any) -> ContextSettings:
    """Return settings of a context in single precision, so that rounding decides nothing.

    llama.cpp's flash attention would round to half precision.
    """
    plain = {"kv_type_k": "f32", "kv_type_v": "f32"}
    sizes = {"batch_size": 256, "micro_batch_size": 256, "num_sequences": 16, "threads": 1, "batch_threads": 1}
    return ContextSettings(**{"cells": cells, **sizes, **plain, **given})


class ObservedContext:
    """A context of a runtime whose model has only the first tokens. ``during`` is what others do while a decode runs."""

    def __init__(self, inner: ModelContext) -> None:
        self._inner = inner
        self.during: Callable[[], None] = lambda: None
        self.num_aborted = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def decode(self) -> None:
        """Compute the batch."""
        self.during()
        try:
            self._inner.decode()
        except Aborted:
            self.num_aborted += 1
            raise

    def logits(self) -> NDArray[np.float32]:
        """Return a row for each output, without the tokens that the tests do not know."""
        return self._inner.logits()[:, : len(DATA)].copy()


class Reference:
    """What a model thinks of the next token, computed without sharing, one text at a time."""

    def __init__(self, context: ModelContext) -> None:
        self._context = context
        self._held: list[int] = []
        self._known: dict[tuple[int, ...], Logits] = {}

    def __call__(self, tokens: list[int]) -> Logits:
        """Return the logits behind ``tokens``."""
        key = tuple(tokens)
        if key not in self._known:
            self._known[key] = self._compute(tokens)
        return self._known[key]

    def _compute(self, tokens: list[int]) -> Logits:
        num_held = len(self._held)
        if not num_held or tokens[:num_held] != self._held or num_held == len(tokens):
            self._context.remove(0)
            num_held = 0
        for start in range(num_held, len(tokens), self._context.batch.capacity):
            part = tokens[start : start + self._context.batch.capacity]
            self._context.batch.clear()
            self._context.batch.add(0, start, part, 1, is_prompt=len(part) > 1)
            self._context.decode()
        self._held = list(tokens)
        return self._context.logits()[0, : len(DATA)].copy()
