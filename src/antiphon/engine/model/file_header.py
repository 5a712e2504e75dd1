"""What the choice of a runtime and a weight format depends on, read from a model file without its weights."""

from pathlib import Path
from typing import Final

import msgspec

from antiphon.engine.model.llama import has_gpu
from antiphon.engine.model.openvino.library import version
from antiphon.engine.model.openvino.support import unsupported, unsupported_settings
from antiphon.engine.model.tokenisers.facts import FileError, read_metadata
from antiphon.engine.settings import EngineSettings
from antiphon.gguf_file import files_of

MOST_BYTES: Final = 1_000_000_000
"""Of larger files no copies are made unasked: that takes minutes, and about four times the file's size of memory."""
_SLOW_TYPES: Final = {"3": "Q4_1", "8": "Q5_0", "9": "Q5_1"}
"""llama.cpp's numbers of file types."""
_POOLS_BY_RANK: Final = "4"
PLAIN_TYPES: Final = {"0": "F32", "1": "F16"}


class FileHeader(msgspec.Struct, frozen=True):
    """What the choice depends on, without loading the weights. ``is_split``: it is the first of several files."""

    file_type: str
    size_bytes: int
    is_embedding: bool
    metadata: dict[str, str]
    problem: str = ""
    is_reranker: bool = False
    is_split: bool = False

    @property
    def is_slow(self) -> bool:
        """Whether llama.cpp has a faster type for it."""
        # A plain type is only worth a second look where all the time goes into products of large batches.
        return self.file_type in _SLOW_TYPES or (self.is_embedding and self.file_type in PLAIN_TYPES)


def read_file_header(source: Path) -> FileHeader:
    """Return what is known of a file; of one that cannot be read, that it cannot."""
    files = files_of(source)
    size = sum(file.stat().st_size for file in files if file.exists())
    try:
        metadata = read_metadata(source)
    except FileError as error:
        return FileHeader("", size, False, {}, f"the file cannot be read: {error}")
    pooling = metadata.get(f"{metadata.get('general.architecture', 'unknown')}.pooling_type")
    file_type = metadata.get("general.file_type", "")
    return FileHeader(
        file_type,
        size,
        pooling is not None,
        metadata,
        is_reranker=pooling == _POOLS_BY_RANK,
        is_split=len(files) > 1,
    )


def why_not_openvino(settings: EngineSettings, file: FileHeader, wanted: str) -> str:
    """Return why OpenVINO cannot serve a file with these settings, or is not asked to; empty if neither; ``wanted`` is the runtime asked for."""
    if version() is None:
        return "it is not installed (pip install 'antiphon[openvino]')"
    ranks = "it does not rank documents" if settings.pooling == "rank" else ""
    parts = "models in several files are not converted" if file.is_split else ""
    problem = file.problem or parts or ranks or unsupported(file.metadata) or unsupported_settings(settings)
    if wanted != "auto" or problem:
        return problem
    if settings.gpu_layers != 0 and has_gpu():
        return "llama.cpp has a GPU here"
    if file.size_bytes <= MOST_BYTES:
        return ""
    size_gb = file.size_bytes / 1e9
    return f"converting {size_gb:.1f} GB takes minutes and about {4 * size_gb:.0f} GB of memory; runtime = 'openvino' does it"
