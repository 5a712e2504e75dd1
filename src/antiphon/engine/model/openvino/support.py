"""What OpenVINO's reader and kernels cannot do with a GGUF file or with settings, told before anything is converted. Pure."""

from typing import Final

from antiphon.engine.settings import EngineSettings

_ARCHITECTURES: Final = frozenset({"llama", "qwen2", "qwen3"})
"""What the reader builds graphs for."""
_UNREAD: Final = ("expert_count", "rope.scaling.type", "rope.scaling.factor", "attention.sliding_window", "logit_scale",
                  "embedding_scale", "residual_scale", "attention.scale", "attn_logit_softcapping")  # fmt: skip
"""Metadata of variants that the reader would build as if they were plain."""
_MEANS_NOTHING: Final = frozenset({"", "0", "none", "1", "1.0", "1.000000"})
KV_PRECISIONS: Final = {"f16": "f16", "bf16": "bf16", "f32": "f32", "q8_0": "u8"}
"""OpenVINO's names for the types of the settings. Where it computes in bf16, an f16 cache is kept in bf16; with an f32 cache it
computes in f32."""


def unsupported(metadata: dict[str, str]) -> str:
    """Return what of a file the reader does not know, empty if it knows all."""
    architecture = metadata.get("general.architecture", "unknown")
    if architecture not in _ARCHITECTURES:
        return f"its reader does not know the architecture {architecture!r}"
    for name in _UNREAD:
        value = metadata.get(f"{architecture}.{name}", "")
        if value not in _MEANS_NOTHING:
            return f"its reader does not know {name} = {value}"
    return ""


def unsupported_settings(settings: EngineSettings) -> str:
    """Return which setting needs llama.cpp, empty if none does."""
    if settings.kv_type_k != settings.kv_type_v or settings.kv_type_k not in KV_PRECISIONS:
        return f"it keeps keys and values in one type of {', '.join(KV_PRECISIONS)}"
    if settings.gpu_layers:
        return "gpu_layers is set, and it computes on the processor"
    if settings.flash_attention is False:
        return "flash_attention is off, and it has no other attention"
    if settings.micro_batch_size is not None and settings.micro_batch_size != settings.batch_size:
        return "micro_batch_size is set, and it computes a batch in one pass"
    if settings.batch_threads is not None and settings.batch_threads != settings.threads:
        return "batch_threads differs from threads, and it has one number of threads"
    return ""
