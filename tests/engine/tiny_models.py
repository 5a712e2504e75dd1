"""Model files of a few hundred kilobytes and random weights, for kinds of memory that no published package carries.

Each byte is a token, so that any text is a prompt. The weights are drawn with a seed and scaled so that outputs differ
from position to position and depend on what came long before.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import gguf
import numpy as np
from gguf.quants import quantize
from numpy.typing import NDArray

CONTEXT = 2048
WINDOW = 32
"""Tokens that most layers of the sliding-window model see."""
_WIDTH, _HEADS, _HEAD_SIZE, _KV_HEADS, _HIDDEN = 64, 4, 16, 2, 128
_SPECIAL = ("<|end|>", "<|user|>", "<|assistant|>")


class _File:
    """A file that is being written; ``random`` adds a matrix of (outputs, inputs)."""

    def __init__(
        self,
        path: Path,
        architecture: str,
        layers: int,
        types: Mapping[str, str] | None = None,
        *,
        generates: bool = True,
        first_token: str = _SPECIAL[0],
        tensors_per_file: int = 0,
    ) -> None:
        self._types = types or {}
        self.strength = 1.0
        self.writer = gguf.GGUFWriter(path, architecture, split_max_tensors=tensors_per_file)
        self._draw = np.random.default_rng(len(architecture))
        self.writer.add_block_count(layers)
        self.writer.add_context_length(CONTEXT)
        self.writer.add_embedding_length(_WIDTH)
        if generates:
            self.writer.add_layer_norm_rms_eps(1e-6)
        else:
            self.writer.add_layer_norm_eps(1e-5)
        size = self._add_vocabulary(first_token)
        self.writer.add_vocab_size(size)
        self.random("token_embd", size, _WIDTH, scale=4)
        if generates:
            self.random("output", size, _WIDTH, scale=4)

    def random(self, name: str, *shape: int, scale: float = 1.0) -> None:
        self._add(name, self._draw.standard_normal(shape) * scale / np.sqrt(shape[-1]))

    def drawn(self, *shape: int) -> NDArray[np.float64]:
        """Return random numbers."""
        return self._draw.standard_normal(shape)

    def ones(self, name: str, size: int, value: float = 1.0) -> None:
        self._add(name, np.full(size, value))

    def bare(self, name: str, values: NDArray[np.float64]) -> None:
        """Add a tensor whose name has no ending."""
        self.writer.add_tensor(name, values.astype(np.float32))

    def close(self) -> None:
        self.writer.write_header_to_file()
        self.writer.write_kv_data_to_file()
        self.writer.write_tensors_to_file()
        self.writer.close()

    def vector(self, name: str, size: int, mean: float = 0.0) -> None:
        self._add(name, mean + 0.3 * self._draw.standard_normal(size))

    def norm(self, name: str) -> None:
        """Add the scales and offsets of a layer normalisation."""
        self.vector(name, _WIDTH, mean=1.0)
        self.vector(f"{name}.bias", _WIDTH)

    def linear(self, name: str, outputs: int, inputs: int, *, bias: bool = True) -> None:
        """Add a matrix and, with ``bias``, its offsets."""
        self.random(name, outputs, inputs)
        if bias:
            self.vector(f"{name}.bias", outputs)

    def attention(self, block: str, *, norms: bool = True) -> None:
        self.random(f"{block}.attn_q", _HEADS * _HEAD_SIZE, _WIDTH)
        self.random(f"{block}.attn_k", _KV_HEADS * _HEAD_SIZE, _WIDTH)
        self.random(f"{block}.attn_v", _KV_HEADS * _HEAD_SIZE, _WIDTH)
        self.random(f"{block}.attn_output", _WIDTH, _HEADS * _HEAD_SIZE, scale=self.strength)
        if norms:
            self.ones(f"{block}.attn_q_norm", _HEAD_SIZE)
            self.ones(f"{block}.attn_k_norm", _HEAD_SIZE)

    def feed_forward(self, block: str, hidden: int = _HIDDEN) -> None:
        self.random(f"{block}.ffn_gate", hidden, _WIDTH)
        self.random(f"{block}.ffn_up", hidden, _WIDTH)
        self.random(f"{block}.ffn_down", _WIDTH, hidden, scale=self.strength)

    def _add(self, name: str, values: NDArray[np.float64]) -> None:
        kind = next((kind for part, kind in self._types.items() if part in name.split(".")), None)
        if kind is None:
            self.bare(name if name.endswith("bias") else f"{name}.weight", values)
        else:
            wanted = gguf.GGMLQuantizationType[kind]
            data = (
                self._blocks_of_q4_k(*values.shape) if kind == "Q4_K" else quantize(values.astype(np.float32), wanted)
            )
            self.writer.add_tensor(f"{name}.weight", data, raw_dtype=wanted)

    def _blocks_of_q4_k(self, rows: int, columns: int) -> NDArray[np.uint8]:
        """Return a matrix in blocks of 256 numbers: two factors, twelve bytes of scales and minima, 128 of numbers.

        Each minimum is seven times its scale, as in real files by and large: zero is among the sixteen numbers.
        """
        blocks = self._draw.integers(0, 256, (rows, columns // 256, 144), np.uint8)
        codes = self._draw.integers(4, 16, (rows, columns // 256, 8), np.uint8)
        blocks[..., :4] = np.array([2e-3, 7 * 2e-3], np.float16).view(np.uint8)
        blocks[..., 4:8] = blocks[..., 8:12] = codes[..., :4]
        blocks[..., 12:16] = codes[..., 4:] * 17
        return blocks.reshape(rows, -1)

    def _add_vocabulary(self, first_token: str) -> int:
        shown = {*range(33, 127), *range(161, 173), *range(174, 256)}
        unshown = iter(range(256, 512))  # GPT-2 writes bytes without a visible character as these
        tokens = [first_token, *_SPECIAL[1:], *(chr(byte if byte in shown else next(unshown)) for byte in range(256))]
        kinds = [gguf.TokenType.CONTROL] * len(_SPECIAL) + [gguf.TokenType.NORMAL] * 256
        self.writer.add_tokenizer_model("gpt2")
        self.writer.add_tokenizer_pre("gpt-2")
        self.writer.add_token_list([*tokens, "th"])
        self.writer.add_token_types([*kinds, gguf.TokenType.NORMAL])
        self.writer.add_token_merges(["t h"])  # llama.cpp wants at least one
        self.writer.add_eos_token_id(0)
        self.writer.add_add_bos_token(False)
        return len(tokens) + 1


def recurrent(path: Path) -> None:
    """Write a Mamba: a state per sequence, and no cells."""
    inner, states, rank, kernel = 2 * _WIDTH, 16, 4, 4
    file = _File(path, "mamba", layers=2)
    file.writer.add_feed_forward_length(0)
    file.writer.add_head_count(0)
    file.writer.add_ssm_conv_kernel(kernel)
    file.writer.add_ssm_inner_size(inner)
    file.writer.add_ssm_state_size(states)
    file.writer.add_ssm_time_step_rank(rank)
    file.ones("output_norm", _WIDTH)
    for layer in range(2):
        block = f"blk.{layer}"
        file.ones(f"{block}.attn_norm", _WIDTH)
        file.random(f"{block}.ssm_in", 2 * inner, _WIDTH)
        file.random(f"{block}.ssm_conv1d", inner, kernel)
        file.ones(f"{block}.ssm_conv1d.bias", inner, 0.0)
        file.random(f"{block}.ssm_x", rank + 2 * states, inner)
        file.random(f"{block}.ssm_dt", inner, rank)
        file.ones(f"{block}.ssm_dt.bias", inner, -2.0)
        file.bare(f"{block}.ssm_a", np.tile(np.arange(1, states + 1) * -0.05, (inner, 1)))
        file.bare(f"{block}.ssm_d", np.ones(inner))
        file.random(f"{block}.ssm_out", _WIDTH, inner)
    file.close()


def hybrid(path: Path, pooling: gguf.PoolingType | None = None) -> None:
    """Write an LFM2: layers with a state and layers with cells, a state first."""
    kv_heads = [0, _KV_HEADS, 0, _KV_HEADS]
    file = _File(path, "lfm2", layers=len(kv_heads))
    if pooling is not None:
        file.writer.add_pooling_type(pooling)
    file.writer.add_feed_forward_length(_HIDDEN)
    file.writer.add_head_count(_HEADS)
    file.writer.add_head_count_kv(kv_heads)
    file.writer.add_shortconv_l_cache(3)
    file.writer.add_rope_freq_base(1e6)
    file.ones("token_embd_norm", _WIDTH)
    for layer, heads in enumerate(kv_heads):
        block = f"blk.{layer}"
        file.ones(f"{block}.attn_norm", _WIDTH)
        file.ones(f"{block}.ffn_norm", _WIDTH)
        file.feed_forward(block)
        if heads:
            file.attention(block)
        else:
            file.random(f"{block}.shortconv.conv", _WIDTH, 3)
            file.random(f"{block}.shortconv.in_proj", 3 * _WIDTH, _WIDTH)
            file.random(f"{block}.shortconv.out_proj", _WIDTH, _WIDTH)
    file.close()


def sliding_window(path: Path) -> None:
    """Write a Gemma 3: five layers that see the last tokens, one that sees all."""
    file = _File(path, "gemma3", layers=6)
    file.writer.add_feed_forward_length(_HIDDEN)
    file.writer.add_head_count(_HEADS)
    file.writer.add_head_count_kv(_KV_HEADS)
    file.writer.add_key_length(_HEAD_SIZE)
    file.writer.add_value_length(_HEAD_SIZE)
    file.writer.add_sliding_window(WINDOW)
    file.writer.add_rope_freq_base(1e6)
    file.ones("output_norm", _WIDTH)
    for layer in range(6):
        block = f"blk.{layer}"
        for name in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"):
            file.ones(f"{block}.{name}", _WIDTH)
        file.attention(block)
        file.feed_forward(block)
    file.close()


def plain_attention(
    path: Path,
    architecture: str = "llama",
    types: Mapping[str, str] | None = None,
    *,
    file_type: int = 0,
    num_idle_layers: int = 0,
    first_token: str = _SPECIAL[0],
    tensors_per_file: int = 0,
) -> None:
    """Write a Llama or a Qwen 3: layers that see all tokens before.

    ``types`` of matrices, by parts of their names; others are F32. ``file_type`` is what the file says of itself. Layers that
    are idle add nothing: a large model with them says what the small one without them says. ``tensors_per_file`` as in
    ``reranker``.
    """
    _plain_attention(
        path,
        architecture,
        types,
        file_type=file_type,
        num_idle_layers=num_idle_layers,
        first_token=first_token,
        tensors_per_file=tensors_per_file,
    ).close()


def _plain_attention(
    path: Path,
    architecture: str,
    types: Mapping[str, str] | None = None,
    *,
    file_type: int = 0,
    num_idle_layers: int = 0,
    first_token: str = _SPECIAL[0],
    tensors_per_file: int = 0,
) -> _File:
    hidden = 256 if types else _HIDDEN  # a block of Q4_K
    file = _File(
        path,
        architecture,
        layers=2 + num_idle_layers,
        types=types,
        first_token=first_token,
        tensors_per_file=tensors_per_file,
    )
    file.writer.add_file_type(file_type)
    file.writer.add_feed_forward_length(hidden)
    file.writer.add_head_count(_HEADS)
    file.writer.add_head_count_kv(_KV_HEADS)
    file.writer.add_key_length(_HEAD_SIZE)
    file.writer.add_value_length(_HEAD_SIZE)
    file.writer.add_rope_dimension_count(_HEAD_SIZE)
    file.writer.add_rope_freq_base(1e4)
    file.ones("output_norm", _WIDTH)
    for layer in range(2 + num_idle_layers):
        block = f"blk.{layer}"
        file.ones(f"{block}.attn_norm", _WIDTH)
        file.ones(f"{block}.ffn_norm", _WIDTH)
        file.strength = float(layer < 2)
        file.attention(block, norms=architecture == "qwen3")
        file.feed_forward(block, hidden)
    return file


RERANKER_WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "how", "long", "bread", "bakes", "an", "hour", "tide")
RERANKER_HEADS = 2


def reranker(
    path: Path, *, names_pooling: bool = True, classes: int = 1, tensors_per_file: int = 0
) -> dict[str, NDArray[np.float32]]:
    """Write a BERT with a classification head, and return its weights by the names of the original library.

    ``names_pooling`` False: the file does not say that it ranks, as older conversions. With ``tensors_per_file`` there are
    several files, ``path`` with their numbers behind its stem.
    """
    width, inner, context, draw = 32, 64, 64, np.random.default_rng(11)
    writer = gguf.GGUFWriter(path, "bert", split_max_tensors=tensors_per_file)
    writer.add_block_count(1)
    writer.add_context_length(context)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(RERANKER_HEADS)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_file_type(0)
    if names_pooling:
        writer.add_pooling_type(gguf.PoolingType.RANK)
    if classes > 1:
        writer.add_classifier_output_labels([f"class {number}" for number in range(classes)])
    control = [gguf.TokenType.CONTROL] * 5
    words = [word if word.startswith("[") else f"\u2581{word}" for word in RERANKER_WORDS]
    writer.add_tokenizer_model("bert")
    writer.add_token_list(words)
    writer.add_token_types([*control, *[gguf.TokenType.NORMAL] * (len(words) - len(control))])
    writer.add_token_type_count(1)
    writer.add_pad_token_id(0)
    writer.add_unk_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_sep_token_id(3)
    writer.add_mask_token_id(4)
    weights: dict[str, NDArray[np.float32]] = {}

    def add(name: str, original: str, *shape: int) -> None:
        weights[original] = (draw.standard_normal(shape) * (0.5 if len(shape) > 1 else 0.1)).astype(np.float32)
        writer.add_tensor(name, weights[original])

    def dense(name: str, original: str, *shape: int) -> None:
        add(f"{name}.weight", f"{original}.weight", *shape)
        add(f"{name}.bias", f"{original}.bias", shape[0])

    at = "encoder.layer.0"
    add("token_embd.weight", "embeddings.word_embeddings.weight", len(words), width)
    add("position_embd.weight", "embeddings.position_embeddings.weight", context, width)
    add("token_types.weight", "embeddings.token_type_embeddings.weight", 1, width)
    dense("token_embd_norm", "embeddings.LayerNorm", width)
    for short, long in (("q", "self.query"), ("k", "self.key"), ("v", "self.value"), ("output", "output.dense")):
        dense(f"blk.0.attn_{short}", f"{at}.attention.{long}", width, width)
    dense("blk.0.attn_output_norm", f"{at}.attention.output.LayerNorm", width)
    dense("blk.0.ffn_up", f"{at}.intermediate.dense", inner, width)
    dense("blk.0.ffn_down", f"{at}.output.dense", width, inner)
    dense("blk.0.layer_output_norm", f"{at}.output.LayerNorm", width)
    dense("cls", "pooler.dense", width, width)
    dense("cls.output", "classifier", classes, width)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


def yes_no_reranker(path: Path) -> None:
    """Write a Qwen 3 whose head gives the probabilities of yes and no, with a template for question and document."""
    file = _plain_attention(path, "qwen3")
    file.writer.add_pooling_type(gguf.PoolingType.RANK)
    file.writer.add_classifier_output_labels(["yes", "no"])
    file.writer.add_chat_template([{"name": "rerank", "template": "<|user|>{query}\n{document}<|assistant|>"}])
    file.random("cls.output", 2, _WIDTH, scale=4)
    file.close()


def bert(path: Path, pooling: gguf.PoolingType = gguf.PoolingType.MEAN) -> None:
    """Write a BERT: positions are embedded, layers see all tokens, each product has offsets."""
    file = _encoder(path, "bert", pooling)
    file.bare("position_embd.weight", file.drawn(CONTEXT, _WIDTH))
    for layer in range(2):
        block = f"blk.{layer}"
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            file.linear(f"{block}.{part}", _WIDTH, _WIDTH)
        file.norm(f"{block}.attn_output_norm")
        file.linear(f"{block}.ffn_up", _HIDDEN, _WIDTH)
        file.linear(f"{block}.ffn_down", _WIDTH, _HIDDEN)
        file.norm(f"{block}.layer_output_norm")
    file.close()


def nomic_bert(path: Path, pooling: gguf.PoolingType = gguf.PoolingType.MEAN) -> None:
    """Write a Nomic BERT: queries and keys are rotated, the inner layer is gated, products have no offsets."""
    file = _encoder(path, "nomic-bert", pooling)
    file.writer.add_rope_freq_base(1000.0)
    for layer in range(2):
        block = f"blk.{layer}"
        file.linear(f"{block}.attn_qkv", 3 * _WIDTH, _WIDTH, bias=False)
        file.linear(f"{block}.attn_output", _WIDTH, _WIDTH, bias=False)
        file.norm(f"{block}.attn_output_norm")
        file.feed_forward(block)
        file.norm(f"{block}.layer_output_norm")
    file.close()


def _encoder(path: Path, architecture: str, pooling: gguf.PoolingType) -> _File:
    file = _File(path, architecture, layers=2, generates=False)
    file.writer.add_file_type(0)
    file.writer.add_head_count(_HEADS)
    file.writer.add_feed_forward_length(_HIDDEN)
    file.writer.add_causal_attention(False)
    file.writer.add_pooling_type(pooling)
    file.writer.add_token_type_count(2)
    file.bare("token_types.weight", file.drawn(2, _WIDTH))
    file.norm("token_embd_norm")
    return file


ENCODERS: dict[str, Callable[[Path, gguf.PoolingType], None]] = {"bert": bert, "nomic-bert": nomic_bert}
KINDS: dict[str, Callable[[Path], None]] = {"recurrent": recurrent, "hybrid": hybrid, "sliding-window": sliding_window}
