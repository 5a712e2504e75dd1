"""Opens a library of llama.cpp in the engine's process, and says at each step what may die of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from antiphon.engine.errors import EngineStartFailed
from antiphon.engine.ipc.messages import Phase
from antiphon.engine.machine import free_memory
from antiphon.engine.model import weight_format
from antiphon.engine.model.llama import has_gpu
from antiphon.engine.model.native import active
from antiphon.engine.model.native.choose import Chosen, choose, file_type
from antiphon.engine.model.native.find import find_libraries, selected
from antiphon.engine.model.native.library import Candidate, Library, LibraryRefusedError
from antiphon.engine.model.native.processor import unused_sets
from antiphon.engine.model.openvino.library import version as openvino_version
from antiphon.engine.model.weight_format import INSTALL_LLAMA, Served, wanted_runtime
from antiphon.engine.settings import EngineSettings
from antiphon.engine.startup import LOADING_LIBRARY, Way
from antiphon.gguf_file import files_of

_INSTALL_HINT: Final = f"{INSTALL_LLAMA}, or OpenVINO: pip install 'antiphon[openvino]'."
_BROKEN_HINT: Final = (
    "Run `antiphon engine show` for details; `antiphon engine build` compiles a library for this processor."
)


class NativeStart:
    """The library that this process uses, and the phases of its start.

    Raises:
        EngineStartFailed: no library is installed and OpenVINO is not to serve or is not here either, or none works.
    """

    def __init__(self, settings: EngineSettings, way: Way, report: Callable[[Phase], None]) -> None:
        self._settings = settings
        self._way = way
        self._report = report
        self._sets: tuple[str, ...] = ()
        self._library_name = self._weight_format = self._runtime = ""
        self.extra_buffers = way.extra_buffers
        self._has_native = False
        self.enter("choosing a library")
        self.library: Library | None = None
        self._reason = ""
        chosen = self._choose()
        if chosen is None:
            return
        candidate, extra_buffers, self._reason = chosen
        self._library_name = candidate.name
        self.extra_buffers = extra_buffers and way.extra_buffers
        self.enter(LOADING_LIBRARY)
        try:
            self.library = active.use(candidate)
        except LibraryRefusedError as error:
            raise EngineStartFailed(str(error), hint=_BROKEN_HINT) from error
        self._sets = self.library.instruction_sets

    def enter(self, phase: str) -> None:
        """Report that ``phase`` begins."""
        self._report(
            Phase(phase, self._library_name, self._sets, self.extra_buffers, self._weight_format, self._runtime)
        )

    def weights(self) -> Served:
        """Return the file to load, converted if that was measured to be faster.

        Raises:
            EngineStartFailed: it cannot be converted as the settings say, or is larger than the memory that is free. A missing
                file of the draft model is found before a minute is spent on measuring this one.
        """
        self.enter("preparing the weights")
        draft = self._settings.draft_model
        if draft is not None and not draft.is_file():
            raise EngineStartFailed(
                f"draft_model: there is no file {str(draft)!r}", hint="Check the path of the model."
            )
        served = self._prepare(self._settings)
        self._weight_format, self._runtime = served.type, served.runtime
        return served

    def draft_weights(self, path: Path) -> Served:
        """Return the file to load for the draft model at ``path``, chosen as for every model.

        Raises:
            EngineStartFailed: as ``weights``.
        """
        return self._prepare(msgspec.structs.replace(self._settings, model_path=path, draft_model=None))

    def _prepare(self, settings: EngineSettings) -> Served:
        if self._way.as_is:
            settings = msgspec.structs.replace(settings, weight_format="as-is")
        if not self._way.openvino:
            settings = msgspec.structs.replace(settings, runtime="llama")
        served = weight_format.prepare(settings, self.library, extra_buffers=self.extra_buffers)
        if self.library is None or not has_gpu():
            check_memory(served.path)
        return served

    def weights_without_openvino(self, because: str) -> Served:
        """Return the file to load with llama.cpp, after OpenVINO could not load the model.

        Raises:
            EngineStartFailed: as ``weights``.
        """
        self._way = msgspec.structs.replace(self._way, openvino=False, because=f"OpenVINO failed: {because}")
        return self.weights()

    def described(self) -> dict[str, str]:
        """Return what the model's information says of the library."""
        return {
            "library": self._library_name,
            "instruction_sets": " ".join(self._sets),
            "extra_buffers": str(self.extra_buffers),
            "library_reason": self._reason,
            "unused_instruction_sets": ""
            if self._has_native or self.library is None
            else " ".join(unused_sets(self._sets)),
            "started_after": self._way.because,
        }

    def _may_do_without(self) -> bool:
        """Whether OpenVINO can serve where no library of llama.cpp is here, and the user asked for none in particular."""
        is_open = wanted_runtime(self._settings) != "llama" and self._settings.library in {"auto", "none"}
        return is_open and self._way.openvino and openvino_version() is not None

    def _choose(self) -> tuple[Candidate, bool, str] | None:
        """Return the library, whether extra buffers work with it, and why it was chosen. None: OpenVINO serves without one."""
        settings = self._settings
        try:
            found = selected(find_libraries(settings.library_directory), settings.library)
        except LibraryRefusedError as error:
            raise EngineStartFailed(str(error), hint="Check `library` in [engine].") from error
        if not found:
            if self._may_do_without():
                return None
            raise EngineStartFailed(f"no llama.cpp is installed (library = {settings.library!r})", hint=_INSTALL_HINT)
        self._has_native = any(candidate.kind != "prebuilt" for candidate in found)
        candidates = [candidate for candidate in found if candidate.name not in self._way.without]
        if not candidates:
            raise EngineStartFailed("there is no other library of llama.cpp here", hint=_INSTALL_HINT)
        if settings.library_directory is None:
            return candidates[0], True, "the first one found: without `library_directory` none is tested"
        kind = file_type(settings.model_path) if settings.model_path.is_file() else None
        match choose(candidates, settings.library_directory, kind):
            case Chosen(best=best, reason=reason):
                return best.candidate, best.extra_buffers, reason
            case problem:
                raise EngineStartFailed(f"no library of llama.cpp works on this machine: {problem}", hint=_BROKEN_HINT)


def check_memory(path: Path) -> None:
    """Refuse a model file that is larger than the free memory.

    Raises:
        EngineStartFailed: with both sizes.
    """
    files = path.iterdir() if path.is_dir() else files_of(path)
    size, free = sum(file.stat().st_size for file in files if file.exists()), free_memory()
    if size > free:
        raise EngineStartFailed(
            f"{str(path)!r} takes {size / 1e9:.1f} GB and {free / 1e9:.1f} GB of memory are free",
            hint="Serve a smaller model or one with fewer bits per weight, or free memory.",
        )
