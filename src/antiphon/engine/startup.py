"""How an engine process is started, and what is tried next when it dies before its model is ready. Pure.

Native code that does not fit the machine ends its process by a signal. The next start gives something up: first OpenVINO,
then llama.cpp's extra buffer types (repacked weights, AMX), then the converted weights, then the library.
"""

import signal
from collections.abc import Sequence
from typing import Final

import msgspec

from antiphon.engine.errors import EngineStartFailed
from antiphon.engine.exit_status import describe
from antiphon.engine.ipc.messages import Phase

LOADING_LIBRARY: Final = "loading the library"
_MEMORY_HINT: Final = "Free memory, or serve a smaller model, a smaller `context_size` or a smaller `cache_size`."
_NATIVE_HINT: Final = (
    "Run `antiphon engine show` to see which libraries work here, and choose one with `library` in [engine]; "
    "`antiphon engine build` compiles one for this processor."
)


class Way(msgspec.Struct, frozen=True):
    """What a start does without: ``without`` names libraries. ``because`` says why, for people."""

    extra_buffers: bool = True
    as_is: bool = False
    without: tuple[str, ...] = ()
    because: str = ""
    openvino: bool = True


class Death(msgspec.Struct, frozen=True):
    """An engine process that ended: in which phase, with which exit status (negative: a signal), and its last lines.

    ``replaced_because`` is why the supervisor ended it, empty if it ended by itself.
    """

    way: Way
    phase: Phase
    code: int
    last_lines: str = ""
    replaced_because: str = ""

    @property
    def is_out_of_memory(self) -> bool:
        """Whether the kernel most likely killed it to get memory."""
        return self.code == -signal.SIGKILL

    def describe(self) -> str:
        """Return what happened: library, instruction sets, phase, and how the process ended."""
        phase = self.phase
        sets = f" ({', '.join(phase.instruction_sets)})" if phase.instruction_sets else ""
        library = f"with {phase.library}{sets}" if phase.library else "before a library was chosen"
        if phase.runtime == "openvino":
            library = f"with OpenVINO and {phase.library or 'no llama.cpp'}"
        less = [
            *([] if self.way.openvino else ["without OpenVINO"]),
            *([] if self.way.extra_buffers else ["without extra buffer types"]),
            *(["with the weights as they are"] * self.way.as_is),
        ]
        how = f", {' and '.join(less)}" if less else ""
        last = f": {self.last_lines}" if self.last_lines else ""
        ended = f"was ended because {self.replaced_because}" if self.replaced_because else describe(self.code)
        return f"{library}{how}, the engine's process {ended} while {phase.name}{last}"


def next_way(death: Death) -> Way | None:
    """Return how to start after ``death``; None if there is nothing left that could help."""
    way, phase = death.way, death.phase
    library = phase.library
    less = msgspec.structs.replace(way, because=death.describe())
    if phase.runtime == "openvino" and way.openvino:
        return msgspec.structs.replace(less, openvino=False)
    if death.is_out_of_memory:
        is_least = (way.as_is or phase.weight_format == "as-is") and not way.extra_buffers
        return None if is_least else msgspec.structs.replace(less, extra_buffers=False, as_is=True, openvino=False)
    if not library or library in way.without:
        return None
    if phase.name != LOADING_LIBRARY:
        if way.extra_buffers and phase.extra_buffers:
            return msgspec.structs.replace(less, extra_buffers=False)
        if not way.as_is and phase.weight_format != "as-is":
            return msgspec.structs.replace(less, extra_buffers=False, as_is=True, openvino=False)
    return Way(without=(*way.without, library), because=less.because, openvino=way.openvino)


def failure(deaths: Sequence[Death], last: EngineStartFailed | None = None) -> EngineStartFailed:
    """Return the error that lists every way that was tried; ``last`` is what the last process reported, if it did."""
    lines = [death.describe() for death in deaths]
    hint = _MEMORY_HINT if deaths[-1].is_out_of_memory else _NATIVE_HINT
    if last is not None:
        lines.append(last.message)
    return EngineStartFailed("no way to start the model is left: " + "; then ".join(lines), hint=hint)
