"""Converts a model file and measures models, each in a process that ends: ``python -m antiphon.engine.model.measurement``.

``convert SOURCE TARGET TYPE`` writes a copy, and ``convert-openvino SOURCE FOLDER TYPE`` what OpenVINO loads. ``refer MODEL SOURCE
ROWS`` keeps the outputs of MODEL in the new file ROWS. ``measure MODEL SOURCE ROWS LIBRARY EXTRA_BUFFERS`` prints a
``Measurement`` as JSON of MODEL, a file or a folder of OpenVINO's made of SOURCE, compared with ROWS; LIBRARY is a
``Candidate`` as JSON, empty where there is no llama.cpp.
"""

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from antiphon.engine.ipc.messages import Text
from antiphon.engine.model.base import ModelContext, ModelError, PoolingModel, TextModel
from antiphon.engine.model.llama import Model
from antiphon.engine.model.logits import log_probabilities
from antiphon.engine.model.native import active
from antiphon.engine.model.native.library import Candidate, LibraryRefusedError
from antiphon.engine.model.openvino.convert import convert
from antiphon.engine.model.openvino.encoder import EncoderModel
from antiphon.engine.model.openvino.model import PagedModel
from antiphon.engine.model.openvino.opening import open_converted
from antiphon.engine.model.quantise import QuantiseError, quantise
from antiphon.engine.model.sizing import ContextSettings

SAMPLE = """\
The lighthouse keeper wrote in his log every evening: the wind, the ships, the state of the lamp. On the third of March
he wrote nothing at all, and nobody noticed until the supply boat came. "Where is he?" asked the captain. She looked at
the open door, the cold stove, the two cups on the table, and did not answer at once.

def moving_average(values: list[float], width: int) -> list[float]:
    if width < 1:
        raise ValueError("width must be positive")
    return [sum(values[i : i + width]) / width for i in range(len(values) - width + 1)]

{"name": "Ada Lovelace", "born": 1815, "fields": ["mathematics", "computing"], "notes": null}

Question: What is the capital of France, and what is 17 times 23? Answer: The capital of France is Paris, and the
product is 391. La mer est calme ce soir; der Wind hat sich gelegt. 1. Wash the rice. 2. Boil two cups of water. 3. Wait.
"""
_NUM_STEPS = 6
_DECODED: Final = (1, 8, 16)
"""Sequences of the decode steps that are measured. A lone one carries a draft token, as in service."""
_CONTEXT: Final = 256
"""Tokens of the prompt that is measured, and behind which the texts are decoded; at most the sample's."""


_NUM_SHORT: Final = 4
"""Times that a short text is embedded, so that it takes long enough to be measured."""
_LONG: Final = 448
"""Tokens of the long text that is embedded, at most."""


class Measurement(msgspec.Struct, frozen=True):
    """Processor seconds of one core for fixed pieces of work, and how far the outputs are from the reference's.

    ``cpu_s``: by the name of the work, as "16 rows". ``divergence`` is the mean KL divergence per token in nats; of an
    embedding model, the largest 1 - cosine.
    """

    cpu_s: dict[str, float]
    divergence: float
    size_bytes: int
    is_embedding: bool = False

    def times_as_fast_as(self, other: "Measurement") -> float:
        """Return the geometric mean of the ratios of both, over all works."""
        ratios = [math.log(other.cpu_s[work] / seconds) for work, seconds in self.cpu_s.items()]
        return math.exp(sum(ratios) / len(ratios))


def measure(path: Path, source: Path, wanted: NDArray[np.float32], *, extra_buffers: bool = True) -> Measurement:
    """Measure the model at ``path``: a prompt, and steps that decode 1, 8 and 16 texts after it.

    Of an embedding model: a short text, the sample's lines as one batch, and a long text. ``wanted`` are the outputs to
    compare with.

    Raises:
        ModelError: the model cannot be loaded.
    """
    size_bytes = sum(part.stat().st_size for part in path.iterdir()) if path.is_dir() else path.stat().st_size
    model: PagedModel | EncoderModel | Model
    model = open_converted(path, source) if path.is_dir() else Model(path, extra_buffers=extra_buffers)
    if isinstance(model, EncoderModel) or (isinstance(model, Model) and model.is_embedding):
        return _measure_embedding(model, wanted, size_bytes)
    context, rows = _outputs(model)
    divergence = float((np.exp(wanted) * (wanted - rows)).sum(axis=1, dtype=np.float64).mean())
    ids = model.vocabulary.tokenize(SAMPLE)[:_CONTEXT]
    works = {"prompt": lambda: _compute_prompt(context, ids)} | {
        f"{num} row{'s' * (num > 1)}": lambda num=num: _decode(context, ids, num) for num in _DECODED
    }
    return Measurement({name: _cpu_s(work) for name, work in works.items()}, divergence, size_bytes)


def _cpu_s(work: Callable[[], object]) -> float:
    """Return processor seconds of a piece of work, after it has been done once: kernels may be made at the first time."""
    work()
    started = time.process_time()
    work()
    return time.process_time() - started


def _measure_embedding(model: PoolingModel, wanted: NDArray[np.float32], size_bytes: int) -> Measurement:
    embed, texts = _embedder(model), _texts(model)
    rows = embed(texts)
    divergence = 1 - float((wanted.astype(np.float64) * rows).sum(axis=1).min())
    *lines, long = texts
    works: dict[str, Callable[[], object]] = {
        "a short text": lambda: [embed(lines[:1]) for _ in range(_NUM_SHORT)],
        "a batch": lambda: embed(lines),
        "a long text": lambda: embed([long]),
    }
    return Measurement({name: _cpu_s(work) for name, work in works.items()}, divergence, size_bytes, is_embedding=True)


def _texts(model: PoolingModel) -> list[list[int]]:
    """Return the sample's lines, and last a text that is as long as the model allows, within bounds."""
    lines = [model.vocabulary.encode((Text(line),), whole=True) for line in SAMPLE.splitlines() if line]
    long = model.vocabulary.encode((Text(SAMPLE * 2),), whole=True)
    size = min(_LONG, model.training_context, len(long))
    return [*(line[: model.training_context] for line in lines), [*long[: size - 1], long[-1]]]


def _embedder(model: PoolingModel) -> Callable[[list[list[int]]], NDArray[np.float64]]:
    """Return what computes unit vectors of texts, all of ``_texts`` at once at most."""
    texts = _texts(model)
    # llama.cpp wants a batch that can be divided among the sequences.
    size = -(-sum(map(len, texts)) // len(texts)) * len(texts)
    context = model.context(
        ContextSettings(
            cells=size,
            batch_size=size,
            micro_batch_size=size,
            num_sequences=len(texts),
            threads=1,
            batch_threads=1,
            flash_attention=True,
            embeddings=True,
        )
    )

    def embed(given: list[list[int]]) -> NDArray[np.float64]:
        context.clear()
        context.batch.clear()
        for slot, ids in enumerate(given):
            context.batch.add(slot, 0, ids, len(ids))
        context.decode()
        rows = context.embeddings(len(given)).astype(np.float64)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    return embed


def _outputs(model: TextModel) -> tuple[ModelContext, NDArray[np.float32]]:
    """Return a context, and the log-probabilities after each of the sample's tokens."""
    ids = model.vocabulary.tokenize(SAMPLE)
    settings = ContextSettings(
        cells=len(ids) + max(_DECODED) * (_CONTEXT + _NUM_STEPS + 1),
        batch_size=len(ids),
        micro_batch_size=len(ids),
        num_sequences=max(_DECODED),
        threads=1,
        batch_threads=1,
        flash_attention=True,
    )
    context = model.context(settings)
    context.batch.add(0, 0, ids, len(ids))
    context.decode()
    rows = np.stack([log_probabilities(row).astype(np.float32) for row in context.logits()])
    context.clear()
    return context, rows


def _compute_prompt(context: ModelContext, ids: list[int]) -> None:
    context.clear()
    context.batch.clear()
    context.batch.add(0, 0, ids, 1)
    context.decode()


def _decode(context: ModelContext, ids: list[int], num_rows: int) -> None:
    """Decode ``num_rows`` texts, each behind a context of its own."""
    for slot in range(1, num_rows):
        context.remove(slot)
        context.copy(0, slot, 0, len(ids))
    for step in range(_NUM_STEPS):
        context.batch.clear()
        for slot in range(num_rows):
            token = ids[(slot + step) % len(ids)]
            tokens = [token] if num_rows > 1 else [token, token]
            context.batch.add(slot, len(ids) + step, tokens, len(tokens), is_prompt=False)
        context.decode()
        if num_rows == 1:
            context.remove(0, len(ids) + step + 1)
    for slot in range(num_rows):
        context.remove(slot, len(ids))


def refer(path: Path, source: Path, target: Path) -> None:
    """Keep the outputs of a model over the sample in a file.

    Raises:
        ModelError: the model cannot be loaded.
    """
    model: PagedModel | EncoderModel | Model
    model = open_converted(path, source) if path.is_dir() else Model(path)
    if isinstance(model, EncoderModel) or (isinstance(model, Model) and model.is_embedding):
        rows = _embedder(model)(_texts(model))
    else:
        rows = _outputs(model)[1]
    with target.open("wb") as file:
        np.save(file, rows.astype(np.float32))


def main() -> None:
    """Do what the command line says; on failure print the reason and exit with 1."""
    match sys.argv[1:]:
        case ["convert", source, target, file_type]:
            quantise(Path(source), Path(target), file_type)
        case ["convert-openvino", source, target, file_type]:
            convert(Path(source), Path(target), file_type)
        case ["refer", path, source, target]:
            refer(Path(path), Path(source), Path(target))
        case ["measure", path, source, rows, library, extra_buffers]:
            if library:
                active.use(msgspec.json.decode(library, type=Candidate, dec_hook=lambda kind, value: kind(value)))
            measurement = measure(Path(path), Path(source), np.load(rows), extra_buffers=extra_buffers == "True")
            sys.stdout.write(msgspec.json.encode(measurement).decode() + "\n")
        case arguments:
            sys.exit(f"unknown arguments {arguments!r}")


if __name__ == "__main__":
    try:
        main()
    except (ModelError, LibraryRefusedError, QuantiseError) as error:
        sys.exit(str(error))
