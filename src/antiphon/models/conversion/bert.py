"""BERT sentence encoders (all-MiniLM, BGE, E5, GTE, ...) from safetensors to GGUF.

Metadata keys and tensor names follow the GGUF specification and its ``bert`` architecture. WordPiece marks what
continues a word (``##ing``); llama.cpp marks what begins one (``▁play``), so the vocabulary is rewritten that way.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from antiphon.models.conversion.safetensors import read_safetensors
from antiphon.models.errors import ConversionFailed

if TYPE_CHECKING:
    from gguf import GGUFWriter

COMPANIONS = ("config.json", "tokenizer_config.json", "vocab.txt", "1_Pooling/config.json")
"""The files that must be next to ``model.safetensors``, relative to its folder."""

_UNUSED = re.compile(r"^(bert\.)?(embeddings\.position_ids|pooler\.|cls\.)")
_RENAMED = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
_KEPT_F32 = ("position_embd.weight", "token_types.weight")
"""Added to activations rather than multiplied: llama.cpp has them in f32."""

T = TypeVar("T")

_CONTROL = ("unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class _Config(msgspec.Struct, frozen=True):
    model_type: str
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    layer_norm_eps: float
    vocab_size: int
    hidden_act: str
    type_vocab_size: int = 1
    position_embedding_type: str = "absolute"


class _Tokenizer(msgspec.Struct, frozen=True):
    unk_token: str
    sep_token: str
    pad_token: str
    cls_token: str
    mask_token: str
    do_lower_case: bool
    tokenize_chinese_chars: bool = True
    strip_accents: bool | None = None


class _Pooling(msgspec.Struct, frozen=True):
    pooling_mode_cls_token: bool = False
    pooling_mode_mean_tokens: bool = False


def convert_bert(weights: Path, target: Path, *, name: str, progress: Callable[[int, int], None]) -> None:
    """Write ``weights`` (with its ``COMPANIONS`` next to it) to ``target``: matrices in f16, the rest in f32.

    ``progress`` gets the bytes of ``weights`` that are converted so far, and of all its tensors. Raises ``ConversionFailed`` for a model that
    is not a BERT, needs what llama.cpp lacks, or when the package ``gguf`` is missing.
    """
    try:
        import gguf  # noqa: PLC0415  # heavy, and only converting needs it
    except ImportError as error:
        raise ConversionFailed(
            f"Converting {weights.name} needs the package gguf.", hint="Install it with: pip install 'antiphon[local]'"
        ) from error
    config = _read(weights.parent / "config.json", _Config)
    tokenizer = _read(weights.parent / "tokenizer_config.json", _Tokenizer)
    pooling = _pooling(weights.parent / "1_Pooling" / "config.json")
    _check(weights, config, tokenizer)
    tensors = {k: v for k, v in read_safetensors(weights).items() if not _UNUSED.match(k)}

    writer = gguf.GGUFWriter(target, "bert")
    try:
        _write_parameters(writer, config, pooling, name)
        _write_vocabulary(writer, weights.parent / "vocab.txt", config, tokenizer)
        done, total = 0, sum(data.nbytes for data in tensors.values())
        for original, data in sorted(tensors.items()):
            renamed = _tensor_name(original)
            writer.add_tensor(renamed, _stored(renamed, data))
            done += data.nbytes
            progress(done, total)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _read(path: Path, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError) as error:
        raise ConversionFailed(
            f"{path} cannot be used: {error}.", hint="Only BERT sentence encoders with a WordPiece vocabulary convert."
        ) from error


def _pooling(path: Path) -> str:
    modes = _read(path, _Pooling)
    if modes.pooling_mode_mean_tokens == modes.pooling_mode_cls_token:
        raise ConversionFailed(f"{path} asks for a pooling other than mean or CLS.", hint="Use a GGUF of this model.")
    return "MEAN" if modes.pooling_mode_mean_tokens else "CLS"


def _check(weights: Path, config: _Config, tokenizer: _Tokenizer) -> None:
    expected = {
        "model_type": (config.model_type, "bert"),
        "hidden_act": (config.hidden_act, "gelu"),
        "position_embedding_type": (config.position_embedding_type, "absolute"),
        "tokenize_chinese_chars": (tokenizer.tokenize_chinese_chars, True),
    }
    for key, (found, wanted) in expected.items():
        if found != wanted:
            raise ConversionFailed(
                f"{weights} cannot be converted: {key} is {found!r}, only {wanted!r} is supported.",
                hint="Use a GGUF of this model, for example hf:org/repo/file.gguf.",
            )


def _write_parameters(writer: "GGUFWriter", config: _Config, pooling: str, name: str) -> None:
    import gguf  # noqa: PLC0415  # see convert_bert

    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_layer_norm_eps(config.layer_norm_eps)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType[pooling])


def _write_vocabulary(writer: "GGUFWriter", path: Path, config: _Config, tokenizer: _Tokenizer) -> None:
    import gguf  # noqa: PLC0415  # see convert_bert

    words = path.read_text("utf-8").removesuffix("\n").split("\n")
    if len(words) != config.vocab_size:
        raise ConversionFailed(
            f"{path} has {len(words)} words, config.json says {config.vocab_size}.", hint="Fetch the model again."
        )
    ids = {word: i for i, word in enumerate(words)}
    control = {key: getattr(tokenizer, key) for key in _CONTROL}
    if missing := [word for word in control.values() if word not in ids]:
        raise ConversionFailed(f"{path} lacks {', '.join(missing)}.", hint="Only WordPiece vocabularies convert.")
    special = set(control.values())

    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([w if w in special else _phantom(w) for w in words])
    writer.add_token_types([gguf.TokenType.CONTROL if w in special else gguf.TokenType.NORMAL for w in words])
    writer.add_token_type_count(config.type_vocab_size)
    writer.add_unk_token_id(ids[tokenizer.unk_token])
    writer.add_sep_token_id(ids[tokenizer.sep_token])
    writer.add_pad_token_id(ids[tokenizer.pad_token])
    writer.add_mask_token_id(ids[tokenizer.mask_token])
    # A sentence is [CLS] ... [SEP]: llama.cpp takes these two from "bos" and "seperator".
    writer.add_bos_token_id(ids[tokenizer.cls_token])
    lowercase = tokenizer.do_lower_case
    writer.add_bool("tokenizer.ggml.normalizer.lowercase", lowercase)
    accents = tokenizer.strip_accents
    writer.add_bool("tokenizer.ggml.normalizer.strip_accents", lowercase if accents is None else accents)


def _phantom(word: str) -> str:
    return word[2:] if word.startswith("##") else "\u2581" + word


def _tensor_name(original: str) -> str:
    stem, _, parameter = original.removeprefix("bert.").rpartition(".")
    parameter = {"gamma": "weight", "beta": "bias"}.get(parameter, parameter)
    block = re.fullmatch(r"encoder\.layer\.(\d+)\.(.+)", stem)
    key = block[2] if block else stem
    if key not in _RENAMED:
        raise ConversionFailed(f"The tensor {original!r} is not part of a BERT encoder.", hint="Use a GGUF file.")
    prefix = f"blk.{block[1]}." if block else ""
    return f"{prefix}{_RENAMED[key]}.{parameter}"


def _stored(name: str, data: NDArray[Any]) -> NDArray[Any]:
    dtype = np.float32 if data.ndim == 1 or name in _KEPT_F32 else np.float16
    return np.ascontiguousarray(data, dtype)
