"""How one model is run. Every field that may be None is chosen from the model and the machine, and reported."""

import logging
from pathlib import Path
from typing import Any, Literal

import msgspec

from antiphon.errors import ConfigError

_log = logging.getLogger(__name__)
WeightFormat = Literal["auto", "as-is", "q4_0", "q8_0", "f16", "bf16"]
RuntimeChoice = Literal["auto", "openvino", "llama"]
Pooling = Literal["auto", "rank"]
KvType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]


class EngineSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of an engine process; names are llama.cpp's where it has one.

    Raises:
        ConfigError: a value out of range, naming the setting.
    """

    model_path: Path
    """The GGUF file."""
    context_size: int | None = None
    """Tokens that one request may use, prompt and completion together. None: what the model was trained with."""
    cache_size: int | None = None
    """KV cells shared by all requests and the prefix cache. None: several contexts, as memory allows."""
    num_sequences: int | None = None
    """Requests' choices that run at once. None: 32."""
    batch_size: int | None = None
    """Most tokens computed in one step. None: 256."""
    micro_batch_size: int | None = None
    """Most tokens computed in one pass of the graph. None: the batch size."""
    threads: int | None = None
    """Threads of a step that only decodes. None: the usable cores, one fewer while another process keeps one busy."""
    batch_threads: int | None = None
    """Threads of a step with prompt tokens in it. None: as ``threads``."""
    gpu_layers: int | None = None
    """Layers to put on a GPU. None: all, where llama.cpp was built with one."""
    kv_type_k: KvType = "f16"
    """Type of cached keys; a quantised type saves memory and costs accuracy."""
    kv_type_v: KvType = "f16"
    """Type of cached values; a quantised type needs flash attention."""
    flash_attention: bool | None = None
    """None: on. Off is up to a sixth faster where many texts share one long prefix and little else is in the cache."""
    weight_format: WeightFormat = "auto"
    """Numeric type of the weights in memory. ``auto``: a file whose type has slow kernels is converted once, if the copy is
    measured to be faster and as good; ``as-is``: the file unchanged; otherwise that type, whatever it costs."""
    layout: WeightFormat | None = None
    """Deprecated name of ``weight_format``; removed in the next version."""
    cache_directory: Path | None = None
    """Where converted copies are kept. None: ``auto`` serves the file unchanged."""
    runtime: RuntimeChoice = "auto"
    """What computes: ``llama`` (llama.cpp), ``openvino``, or ``auto``: the one that is measured to be faster on this machine, and
    llama.cpp where there is no ``cache_directory`` or OpenVINO cannot serve the model."""
    library: str = "auto"
    """Which llama.cpp computes. ``auto``: the fastest that passes a self-test here; ``prebuilt``: the one of the package
    xllamacpp; ``native``: one compiled on this machine; ``none``: OpenVINO serves alone; otherwise the path of a shared library."""
    library_directory: Path | None = None
    """Where native builds and results of self-tests are kept. None: the first library found is used, untested."""
    cached_tokens: int | None = None
    """Prompt tokens that the prefix cache keeps while nothing runs on them. None: as many as slow a step by a tenth or so."""
    pooling: Pooling = "auto"
    """How the outputs of a text are pooled: ``auto``, as the file says; ``rank``, by the model's classification head, for
    rerankers whose file does not say so."""
    draft_tokens: int = 12
    """Most draft tokens of speculative decoding (prompt lookup) for one sequence in one step. 0: no speculation."""
    draft_model: Path | None = None
    """A small GGUF file with the same vocabulary that proposes tokens too (speculative decoding). None: prompt lookup alone."""
    max_queue: int = 256
    """Requests that may wait; the next one is refused at once."""
    prefix_cache: bool = True
    """Share computed prompt prefixes between requests, where the model's memory allows it."""
    prefill_answers: bool = True
    """After an answer, compute its tokens as a prompt while nothing else runs, so that the next turn finds them cached."""
    step_timeout_s: float = 120.0
    """A step longer than this means that native code hangs; the process is then replaced."""
    heartbeat_timeout_s: float = 20.0
    """A process that says nothing for so long is replaced."""
    start_timeout_s: float = 600.0
    """Longest time a model may take to load."""

    def __post_init__(self) -> None:
        for name in (
            "context_size",
            "cache_size",
            "num_sequences",
            "batch_size",
            "micro_batch_size",
            "threads",
            "batch_threads",
            "max_queue",
            "cached_tokens",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"engine setting {name} must be at least 1, got {value!r}")
        if self.gpu_layers is not None and self.gpu_layers < 0:
            raise ConfigError(
                f"engine setting gpu_layers must be at least 0, got {self.gpu_layers!r}; leave it out for all layers"
            )
        if self.num_sequences is not None and self.num_sequences > MAX_SEQUENCES:
            raise ConfigError(
                f"engine setting num_sequences must be at most {MAX_SEQUENCES}, got {self.num_sequences!r}"
            )
        if not 0 <= self.draft_tokens <= MAX_DRAFT:
            raise ConfigError(f"engine setting draft_tokens must be from 0 to {MAX_DRAFT}, got {self.draft_tokens!r}")
        if self.draft_model is not None and not self.draft_tokens:
            raise ConfigError(
                "engine settings draft_model and draft_tokens = 0 contradict each other: leave one of them out"
            )
        self._take_deprecated_layout()
        if self.weight_format not in {"auto", "as-is"} and self.cache_directory is None:
            raise ConfigError(
                f"engine setting weight_format {self.weight_format!r} needs cache_directory, where the copy is kept"
            )
        for name in ("step_timeout_s", "heartbeat_timeout_s", "start_timeout_s"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"engine setting {name} must be above 0, got {getattr(self, name)!r}")

    def _take_deprecated_layout(self) -> None:
        """Move the value of ``layout`` to ``weight_format``, with a warning in the log."""
        if self.layout is None:
            return
        if self.weight_format not in {"auto", self.layout}:
            raise ConfigError(
                f"engine settings weight_format {self.weight_format!r} and layout {self.layout!r} disagree; "
                "layout is the old name: remove it"
            )
        _log.warning("the engine setting `layout` is deprecated: write `weight_format = %r`", self.layout)
        msgspec.structs.force_setattr(self, "weight_format", self.layout)
        msgspec.structs.force_setattr(self, "layout", None)


MAX_DRAFT = 32
MAX_SEQUENCES = 128
"""Half of the sequence ids of a llama.cpp context; the other half hold the prefix cache."""


def library_directory(home: Path) -> Path:
    """Return where native builds and results of self-tests are kept unless the settings say otherwise."""
    return home / "engine"


def to_json(settings: EngineSettings) -> bytes:
    """Return settings as one line of JSON."""
    return msgspec.json.encode(settings, enc_hook=str)


def from_json(line: bytes) -> EngineSettings:
    """Return the settings that ``to_json`` wrote."""
    return msgspec.json.decode(line, type=EngineSettings, dec_hook=_decode)


def _decode(kind: type, value: Any) -> Any:
    if kind is Path:
        return Path(value)
    raise NotImplementedError(kind)
