"""Converts a model file and measures files, each in a process that ends: ``python -m antiphon.engine.model.measurement``.

``convert SOURCE TARGET TYPE`` writes a copy. ``measure FILE REFERENCE LIBRARY EXTRA_BUFFERS`` prints a ``Measurement`` of FILE
as JSON, compared with REFERENCE; LIBRARY is a ``Candidate`` as JSON.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from antiphon.engine.ipc.messages import Text
from antiphon.engine.model.llama import Context, LlamaError, Model
from antiphon.engine.model.logits import log_probabilities
from antiphon.engine.model.native import active
from antiphon.engine.model.native.library import Candidate, LibraryRefusedError
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
_ROWS = 8
_NUM_STEPS = 12


class Measurement(msgspec.Struct, frozen=True):
    """Processor seconds of one core for a fixed piece of work, and how far the outputs are from the reference's.

    ``divergence`` is the mean KL divergence per token in nats; of an embedding model, the largest 1 - cosine.
    """

    cpu_s: float
    divergence: float
    size_bytes: int
    is_embedding: bool = False


def measure(path: Path, reference: Path, *, extra_buffers: bool = True) -> Measurement:
    """Measure ``path``: a prompt of the sample's length, and steps that decode eight texts after it.

    Of an embedding model: the sample's lines, packed into one batch.

    Raises:
        LlamaError: a file cannot be loaded.
    """
    model = Model(path, extra_buffers=extra_buffers)
    prepare = _embed if model.is_embedding else _generate
    rows, work = prepare(model)
    started = time.process_time()
    work()
    cpu_s = time.process_time() - started
    wanted = rows if path == reference else prepare(Model(reference, extra_buffers=extra_buffers))[0]
    if model.is_embedding:
        divergence = 1 - float((wanted * rows).sum(axis=1).min())
    else:
        divergence = float((np.exp(wanted) * (wanted - rows)).sum(axis=1).mean())
    return Measurement(cpu_s, divergence, path.stat().st_size, model.is_embedding)


def _embed(model: Model) -> tuple[NDArray[np.float64], Callable[[], None]]:
    """Return the unit vectors of the sample's lines, and the work to measure: computing them several times."""
    lines = [model.vocabulary.encode((Text(line),), whole=True) for line in SAMPLE.splitlines() if line]
    # llama.cpp wants a batch that can be divided among the sequences.
    size = -(-sum(map(len, lines)) // len(lines)) * len(lines)
    settings = ContextSettings(
        cells=size,
        batch_size=size,
        micro_batch_size=size,
        num_sequences=len(lines),
        threads=1,
        batch_threads=1,
        flash_attention=True,
        embeddings=True,
    )
    context = Context(model, settings)
    for row, ids in enumerate(lines):
        context.batch.add(row, 0, ids, len(ids))
    context.decode()
    rows = context.embeddings(len(lines)).astype(np.float64)

    def work() -> None:
        for _ in range(_NUM_STEPS):
            context.clear()
            context.decode()

    return rows / np.linalg.norm(rows, axis=1, keepdims=True), work


def _generate(model: Model) -> tuple[NDArray[np.float64], Callable[[], None]]:
    """Return the log-probabilities after each of the sample's tokens, and the work to measure: eight texts."""
    ids = model.vocabulary.tokenize(SAMPLE)
    settings = ContextSettings(
        cells=2 * len(ids) + _ROWS * _NUM_STEPS,
        batch_size=len(ids),
        micro_batch_size=len(ids),
        num_sequences=_ROWS,
        threads=1,
        batch_threads=1,
        flash_attention=True,
    )
    context = Context(model, settings)
    context.batch.add(0, 0, ids, len(ids))
    context.decode()
    rows = np.stack([log_probabilities(row) for row in context.logits()])
    context.clear()
    return rows, lambda: _decode(context, ids)


def _decode(context: Context, ids: list[int]) -> None:
    context.batch.clear()
    context.batch.add(0, 0, ids, 1)
    context.decode()
    for row in range(1, _ROWS):
        context.copy(0, row, 0, len(ids))
    for step in range(_NUM_STEPS):
        context.batch.clear()
        for row in range(_ROWS):
            context.batch.add(row, len(ids) + step, [ids[(row + step) % len(ids)]], 1)
        context.decode()


def main() -> None:
    """Do what the command line says; on failure print the reason and exit with 1."""
    match sys.argv[1:]:
        case ["convert", source, target, file_type]:
            quantise(Path(source), Path(target), file_type)
        case ["measure", path, reference, library, extra_buffers]:
            active.use(msgspec.json.decode(library, type=Candidate, dec_hook=lambda kind, value: kind(value)))
            measurement = measure(Path(path), Path(reference), extra_buffers=extra_buffers == "True")
            sys.stdout.write(msgspec.json.encode(measurement).decode() + "\n")
        case arguments:
            sys.exit(f"unknown arguments {arguments!r}")


if __name__ == "__main__":
    try:
        main()
    except (LlamaError, LibraryRefusedError, QuantiseError) as error:
        sys.exit(str(error))
