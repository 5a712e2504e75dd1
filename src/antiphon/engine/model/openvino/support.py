"""What cannot be converted of a GGUF file, or computed with settings, told before anything is converted. Pure."""

from typing import Final

from antiphon.engine.settings import EngineSettings

_ARCHITECTURES: Final = frozenset({"llama", "qwen2", "qwen3"})
"""What the reader builds graphs for."""
_UNREAD: Final = ("expert_count", "rope.scaling.type", "rope.scaling.factor", "attention.sliding_window", "logit_scale",
                  "embedding_scale", "residual_scale", "attention.scale", "attn_logit_softcapping")  # fmt: skip
"""Metadata of variants that the reader would build as if they were plain."""
ENCODERS: Final = frozenset({"bert", "nomic-bert"})
"""Architectures of embedding models whose graphs ``encoder_graph`` builds."""
_ONE_VECTOR: Final = frozenset({"1", "2", "3"})
"""llama.cpp's numbers of pooling types that make one vector of a text: mean, cls, last."""
_UNBUILT: Final = ("expert_count", "moe_every_n_layers", "rope.scaling.type", "rope.scaling.factor", "attention.sliding_window",
                   "attention.clamp_kqv")  # fmt: skip
"""Metadata of variants of encoders that are not built."""
_MEANS_NOTHING: Final = frozenset({"", "0", "none", "1", "1.0", "1.000000"})
_FOUR_BIT_TYPES: Final = {"2": "Q4_0", "14": "Q4_K", "15": "Q4_K"}
"""llama.cpp's numbers of file types, here and below."""
_PLAIN_TYPES: Final = {"0": "F32", "1": "F16"}
_BF16_FLAGS: Final = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Where the processor multiplies bf16, weights of eight bits make an encoder hardly faster, and its vectors less exact."""
KV_PRECISIONS: Final = {"f16": "f16", "bf16": "bf16", "f32": "f32", "q8_0": "u8"}
"""OpenVINO's names for the types of the settings. Where it computes in bf16, an f16 cache is kept in bf16; with an f32 cache it
computes in f32."""


def unsupported(metadata: dict[str, str]) -> str:
    """Return what of a file cannot be converted, empty if all can."""
    architecture = metadata.get("general.architecture", "unknown")
    if f"{architecture}.pooling_type" in metadata:
        return _unsupported_encoder(architecture, metadata)
    if architecture not in _ARCHITECTURES:
        return f"its reader does not know the architecture {architecture!r}"
    for name in _UNREAD:
        value = metadata.get(f"{architecture}.{name}", "")
        if value not in _MEANS_NOTHING:
            return f"its reader does not know {name} = {value}"
    return ""


def _unsupported_encoder(architecture: str, metadata: dict[str, str]) -> str:
    if architecture not in ENCODERS:
        return f"embedding models of the architecture {architecture!r} are not converted for it"
    if metadata[f"{architecture}.pooling_type"] not in _ONE_VECTOR:
        return "the model does not make one vector of a text"
    if metadata.get(f"{architecture}.attention.causal", "false") != "false":
        return "attention is causal, and it is computed in both directions"
    for name in _UNBUILT:
        value = metadata.get(f"{architecture}.{name}", "")
        if value not in _MEANS_NOTHING:
            return f"embedding models with {name} = {value} are not converted for it"
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


def weight_types(file_type: str, *, is_encoder: bool, flags: frozenset[str]) -> list[str]:
    """Return the types of copies worth trying, what is nearest to the file first; ``flags`` are the processor's."""
    if is_encoder and file_type in _PLAIN_TYPES and not _BF16_FLAGS.isdisjoint(flags):
        return ["f16"]
    if file_type in _FOUR_BIT_TYPES and not is_encoder:
        # Of Q4_K, four-bit integers with a whole number as their zero are only close.
        return ["q4_0", "f16"] if file_type == "2" else ["q4_0", "q8_0", "f16"]
    return ["q8_0", "f16"] if file_type == "7" else ["f16", "q8_0"]
