"""Tests one library in a process that may die: ``python -m antiphon.engine.model.native.selftest CANDIDATE FOLDER EXTRA``.

Loads the library, runs the models of ``selftest_model`` in FOLDER, compares their logits with known ones, and measures how
long they take. Standard output has a line ``phase NAME`` before each phase, so that a parent can report in which one the
process died, and at the end one line ``result`` with a ``Result`` as JSON.
"""

import sys
import time
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from antiphon.engine.model.llama import Context, LlamaError, Model
from antiphon.engine.model.native import active
from antiphon.engine.model.native.library import Candidate, LibraryRefusedError
from antiphon.engine.model.native.selftest_model import PROMPT, TYPES
from antiphon.engine.model.sizing import ContextSettings

VERSION: Final = 1
"""Changes with what is tested, so that older results are not used."""
KNOWN_FILE: Final = Path(__file__).with_name("selftest_logits.json")
TOLERANCE: Final = 0.05
"""Largest root mean square of the differences from the known logits, relative to theirs."""
_ROWS, _NUM_STEPS, _NUM_REPEATS = 8, 6, 5


class Result(msgspec.Struct, frozen=True):
    """What a library that passed was measured at: processor seconds of one core for a fixed piece of work, by weight type."""

    instruction_sets: tuple[str, ...]
    seconds: dict[str, float]


def known_logits() -> dict[str, list[float]]:
    """Return the logits after the prompt by weight type, for the first tokens of the vocabulary."""
    return msgspec.json.decode(KNOWN_FILE.read_bytes(), type=dict[str, list[float]])


def decode_candidate(text: str) -> Candidate:
    """Return the candidate that a command line names as JSON."""
    return msgspec.json.decode(text, type=Candidate, dec_hook=lambda kind, value: kind(value))


def encode_candidate(candidate: Candidate) -> str:
    """Return a candidate as JSON."""
    return msgspec.json.encode(candidate, enc_hook=str).decode()


def compute(path: Path, *, extra_buffers: bool) -> tuple[NDArray[np.float32], float]:
    """Return the logits after the prompt, shape ``[vocabulary]``, and the processor seconds of the work to measure.

    Raises:
        LlamaError: the model cannot be loaded or computed.
    """
    model = Model(path, gpu_layers=0, extra_buffers=extra_buffers)
    size = len(PROMPT) * 2 + _ROWS * _NUM_STEPS
    settings = ContextSettings(
        cells=size, batch_size=size, micro_batch_size=size, num_sequences=_ROWS, threads=1, batch_threads=1,
        flash_attention=True,
    )  # fmt: skip
    context = Context(model, settings)
    context.batch.add(0, 0, list(PROMPT), 1)
    context.decode()
    logits = context.logits()[0].copy()
    seconds: list[float] = []
    for _ in range(_NUM_REPEATS):
        context.clear()
        started = time.process_time()
        _work(context)
        seconds.append(time.process_time() - started)
    context.close()
    model.close()
    return logits, min(seconds)


def _work(context: Context) -> None:
    """Compute the prompt, and steps of several texts that go on from it."""
    context.batch.clear()
    context.batch.add(0, 0, list(PROMPT), 1)
    context.decode()
    for row in range(1, _ROWS):
        context.copy(0, row, 0, len(PROMPT))
    for step in range(_NUM_STEPS):
        context.batch.clear()
        for row in range(_ROWS):
            context.batch.add(row, len(PROMPT) + step, [PROMPT[row + step]], 1)
        context.decode()


def _check(logits: NDArray[np.float32], known: list[float], weight_type: str) -> None:
    expected = np.array(known)
    difference = logits[: len(known)].astype(np.float64) - expected
    error = float(np.sqrt((difference**2).mean() / (expected**2).mean()))
    if not error <= TOLERANCE:
        sys.exit(f"wrong logits with {weight_type} weights: they differ by {error:.3f} of their size")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Test the library that the command line names; exit with a reason if it fails."""
    candidate, folder, extra_buffers = decode_candidate(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "True"
    _say("phase loading the library")
    library = active.use(candidate)
    seconds: dict[str, float] = {}
    for weight_type in TYPES:
        _say(f"phase computing with {weight_type} weights")
        logits, seconds[weight_type] = compute(folder / f"{weight_type}.gguf", extra_buffers=extra_buffers)
        _check(logits, known_logits()[weight_type], weight_type)
    _say("result " + msgspec.json.encode(Result(library.instruction_sets, seconds)).decode())


if __name__ == "__main__":
    try:
        main()
    except (LibraryRefusedError, LlamaError) as error:
        sys.exit(str(error))
