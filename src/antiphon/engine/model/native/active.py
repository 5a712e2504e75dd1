"""The one llama.cpp of this process. ``use`` loads it; without, the first access loads the preferred one that is installed.

Two copies of llama.cpp in one process would each start their own threads, so a second one is refused.
"""

import ctypes
from typing import Any, Final

from antiphon.engine.model.native.find import find_libraries, selected
from antiphon.engine.model.native.library import Candidate, Library, LibraryRefusedError, load
from antiphon.engine.model.native_log import NativeLog

log: Final = NativeLog()
_loaded: list[Library] = []
_kept: list[Any] = []
"""C callbacks, which must live as long as the library."""


def use(candidate: Candidate) -> Library:
    """Load ``candidate`` for the life of this process.

    Raises:
        LibraryRefusedError: it does not fit, or another one is loaded already.
    """
    if _loaded:
        if _loaded[0].candidate == candidate:
            return _loaded[0]
        raise LibraryRefusedError(f"{_loaded[0].candidate.name} is loaded already; {candidate.name} cannot be as well")
    library = load(candidate)
    callback = library.api.ggml_log_callback(_keep_line)
    _kept.append(callback)
    library.api.llama_log_set(callback, ctypes.c_void_p(0))
    library.api.llama_backend_init()
    _loaded.append(library)
    return library


def active() -> Library:
    """Return this process's library, after loading the preferred one if there is none yet.

    Raises:
        LibraryRefusedError: no library is installed, or it does not fit.
    """
    if not _loaded:
        candidates = selected(find_libraries(), None)
        if not candidates:
            raise LibraryRefusedError("no llama.cpp is installed; install it with: pip install 'antiphon[llama]'")
        use(candidates[0])
    return _loaded[0]


class _Api:
    """The C API of the active library; each name is looked up once."""

    def __getattr__(self, name: str) -> Any:
        value = getattr(active().api, name)
        setattr(self, name, value)
        return value


api: Final[Any] = _Api()


def _keep_line(level: int, text: bytes, _data: Any) -> None:
    log.take(level, text)
