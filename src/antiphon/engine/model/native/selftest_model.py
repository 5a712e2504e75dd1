"""A small llama model with fixed weights, in several types: what a library must compute correctly before it is used.

Weights come from integer arithmetic, so that every machine and every version of numpy makes the same file.
"""

from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
from numpy.typing import NDArray

TYPES: Final = ("f16", "bf16", "q8_0", "q4_0")
WIDTH, HEADS, KV_HEADS, HIDDEN, LAYERS, NUM_TOKENS = 512, 8, 2, 1536, 2, 320
HEAD_SIZE: Final = WIDTH // HEADS
EPSILON: Final = 1e-5
ROPE_BASE: Final = 10000.0
PROMPT: Final = tuple(7 * i % NUM_TOKENS for i in range(64))


def weights() -> dict[str, NDArray[np.float32]]:
    """Return every tensor by its name, matrices as (outputs, inputs)."""
    tensors = {"token_embd.weight": _matrix(1, NUM_TOKENS, WIDTH), "output.weight": _matrix(2, NUM_TOKENS, WIDTH)}
    tensors["output_norm.weight"] = np.ones(WIDTH, np.float32)
    for layer in range(LAYERS):
        seed, block = 10 * (layer + 1), f"blk.{layer}"
        tensors[f"{block}.attn_norm.weight"] = np.ones(WIDTH, np.float32)
        tensors[f"{block}.ffn_norm.weight"] = np.ones(WIDTH, np.float32)
        tensors[f"{block}.attn_q.weight"] = _matrix(seed, WIDTH, WIDTH)
        tensors[f"{block}.attn_k.weight"] = _matrix(seed + 1, KV_HEADS * HEAD_SIZE, WIDTH)
        tensors[f"{block}.attn_v.weight"] = _matrix(seed + 2, KV_HEADS * HEAD_SIZE, WIDTH)
        tensors[f"{block}.attn_output.weight"] = _matrix(seed + 3, WIDTH, WIDTH)
        tensors[f"{block}.ffn_gate.weight"] = _matrix(seed + 4, HIDDEN, WIDTH)
        tensors[f"{block}.ffn_up.weight"] = _matrix(seed + 5, HIDDEN, WIDTH)
        tensors[f"{block}.ffn_down.weight"] = _matrix(seed + 6, WIDTH, HIDDEN)
    return tensors


def write(path: Path, weight_type: str) -> None:
    """Write the model with its matrices in one of ``TYPES``."""
    writer: Any = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(4 * len(PROMPT))
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(EPSILON)
    writer.add_rope_freq_base(ROPE_BASE)
    writer.add_vocab_size(NUM_TOKENS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([chr(0x100 + i) for i in range(NUM_TOKENS)])
    writer.add_token_types([gguf.TokenType.NORMAL] * NUM_TOKENS)
    writer.add_token_merges(["\u0100 \u0101"])
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(False)
    kind = gguf.GGMLQuantizationType[weight_type.upper()]
    for name, values in weights().items():
        if values.ndim == 1:
            writer.add_tensor(name, values)
        else:
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _matrix(seed: int, outputs: int, inputs: int) -> NDArray[np.float32]:
    """Return numbers between -1 and 1 that look random, scaled to keep the size of what passes through."""
    index = np.arange(outputs * inputs, dtype=np.uint64) + np.uint64(seed * 1_000_003)
    index = (index ^ (index >> np.uint64(15))) * np.uint64(0x2C1B3C6D) & np.uint64(0xFFFFFFFF)
    index = (index ^ (index >> np.uint64(12))) * np.uint64(0x297A2D39) & np.uint64(0xFFFFFFFF)
    index ^= index >> np.uint64(15)
    values = index.astype(np.float64) / 2.0**31 - 1.0
    scale = 1.7 / np.sqrt(inputs)
    return (values * scale).astype(np.float32).reshape(outputs, inputs)
