"""The graph of an encoder that embeds (BERT, Nomic BERT), built of OpenVINO's operators from the weights of a GGUF file.

Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers" (2019); tensor names are those of the GGUF format.
All texts of a step are consecutive rows, so that no product is computed for padding. Only attention needs texts of
one length: their rows are gathered into a grid of one text a line, padded to the longest, and back.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
from gguf.quants import dequantize
from numpy.typing import NDArray

from antiphon.engine.model.openvino.library import OpenVinoError, openvino
from antiphon.engine.model.openvino.support import ENCODERS

_GROUP: Final = 32
"""Weights that share a scale in the format ``q8_0``."""
_MOST_INT8: Final = 127

Array = NDArray[Any]


class _Weights:
    """The tensors of a GGUF file, in single precision; ``left`` are those that nothing has asked for."""

    def __init__(self, reader: Any) -> None:
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        self.left = set(self._tensors)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def get(self, name: str) -> NDArray[np.float32]:
        """Return a tensor.

        Raises:
            OpenVinoError: there is none of this name, or its type is not known.
        """
        if name not in self._tensors:
            raise OpenVinoError(f"the file has no tensor {name!r}")
        self.left.discard(name)
        tensor = self._tensors[name]
        try:
            values: NDArray[np.float32] = dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError as error:
            raise OpenVinoError(f"{name}: {error}") from error
        return values


class _Builder:
    """Makes the operators. ``is_int8``: the matrices of products are stored as integers of eight bits."""

    def __init__(self, reader: Any, architecture: str, *, is_int8: bool) -> None:
        self.operators: Any = openvino().opset13
        self.weights = _Weights(reader)
        self._architecture = architecture
        self._reader = reader
        self._is_int8 = is_int8
        self.parameters: list[Any] = []

    def number(self, key: str, default: float | None = None) -> float:
        """Return a number of the file's metadata.

        Raises:
            OpenVinoError: it is not there, and there is no default.
        """
        field = self._reader.get_field(f"{self._architecture}.{key}")
        value = default if field is None else field.contents()
        if value is None:
            raise OpenVinoError(f"the file has no {self._architecture}.{key}")
        return float(value)

    def parameter(self, name: str, shape: list[int], kind: type) -> Any:
        """Add an input of the graph."""
        node = self.operators.parameter(shape, kind, name=name)
        node.output(0).set_names({name})
        self.parameters.append(node)
        return node

    def integers(self, *values: int) -> Any:
        """Return a constant list."""
        return self.operators.constant(np.array(values, np.int64))

    def rows_of(self, name: str, indices: Any) -> Any:
        """Return rows of a tensor that is kept in half precision."""
        table = self.operators.constant(self.weights.get(f"{name}.weight").astype(np.float16))
        rows = self.operators.gather(table, indices, self.operators.constant(np.int64(0)))
        return self.operators.convert(rows, np.float32)

    def linear(self, x: Any, name: str, rows: slice = slice(None)) -> Any:
        """Return the product with a matrix, or with some of its rows, plus its bias if it has one."""
        matrix = self.weights.get(f"{name}.weight")[rows]
        is_int8 = self._is_int8 and matrix.shape[1] % _GROUP == 0
        stored = self._int8(matrix) if is_int8 else self.operators.constant(np.ascontiguousarray(matrix))
        product = self.operators.matmul(x, stored, False, True)
        bias = f"{name}.bias"
        if bias not in self.weights:
            return product
        return self.operators.add(product, self.operators.constant(self.weights.get(bias)[rows]))

    def norm(self, x: Any, name: str) -> Any:
        """Return the layer normalisation of each row."""
        epsilon = self.number("attention.layer_norm_epsilon")
        unit = self.operators.mvn(x, self.integers(-1), True, epsilon, "inside_sqrt")
        scaled = self.operators.multiply(unit, self.operators.constant(self.weights.get(f"{name}.weight")))
        return self.operators.add(scaled, self.operators.constant(self.weights.get(f"{name}.bias")))

    def _int8(self, matrix: NDArray[np.float32]) -> Any:
        """Return a matrix as GGUF's Q8_0 has it: integers, and a scale for each group of a row."""
        outputs, inputs = matrix.shape
        groups = matrix.reshape(outputs, inputs // _GROUP, _GROUP)
        scales = np.abs(groups).max(axis=2, keepdims=True) / _MOST_INT8
        integers = np.rint(groups / np.where(scales == 0, 1, scales)).astype(np.int8)
        converted = self.operators.convert(self.operators.constant(integers), np.float16)
        scaled = self.operators.multiply(converted, self.operators.constant(scales.astype(np.float16)))
        flat = self.operators.reshape(scaled, self.integers(outputs, inputs), False)
        return self.operators.convert(flat, np.float32)


def build_encoder(source: Path, *, is_int8: bool) -> Any:
    """Return the model of a GGUF file.

    Its inputs are ``ids`` and ``positions`` [rows], ``grid`` [texts, longest] (the row in each cell), ``mask``
    [texts, 1, 1, longest] (0 where the cell holds a row of the text, else minus infinity) and ``back`` [rows] (the cell of
    each row). Its output are the last layer's rows [rows, width].

    Raises:
        OpenVinoError: the architecture is another one, or the tensors are not those of a plain encoder.
    """
    reader: Any = gguf.GGUFReader(source)
    field = reader.get_field("general.architecture")
    architecture = "unknown" if field is None else str(field.contents())
    if architecture not in ENCODERS:
        raise OpenVinoError(f"the architecture {architecture!r} is not one of {', '.join(sorted(ENCODERS))}")
    builder = _Builder(reader, architecture, is_int8=is_int8)
    ops = builder.operators
    ids = builder.parameter("ids", [-1], np.int64)
    positions = builder.parameter("positions", [-1], np.int64)
    attention = _Attention(builder, positions)
    x = builder.rows_of("token_embd", ids)
    if "position_embd.weight" in builder.weights:
        x = ops.add(x, builder.rows_of("position_embd", positions))
    if "token_types.weight" in builder.weights:  # each text is all of the first type
        x = ops.add(x, ops.constant(builder.weights.get("token_types.weight")[0]))
    x = builder.norm(x, "token_embd_norm")
    feed_forward = _gated if architecture == "nomic-bert" else _plain
    for layer in range(int(builder.number("block_count"))):
        block = f"blk.{layer}"
        mixed = builder.linear(attention(x, block), f"{block}.attn_output")
        x = builder.norm(ops.add(x, mixed), f"{block}.attn_output_norm")
        x = builder.norm(ops.add(x, feed_forward(builder, x, block)), f"{block}.layer_output_norm")
    if builder.weights.left:
        raise OpenVinoError(f"an encoder of this kind has no tensor {min(builder.weights.left)!r}")
    return openvino().Model([ops.result(x)], builder.parameters)


def _plain(builder: _Builder, x: Any, block: str) -> Any:
    inner = builder.operators.gelu(builder.linear(x, f"{block}.ffn_up"), "erf")
    return builder.linear(inner, f"{block}.ffn_down")


def _gated(builder: _Builder, x: Any, block: str) -> Any:
    gate = builder.operators.swish(builder.linear(x, f"{block}.ffn_gate"))
    inner = builder.operators.multiply(gate, builder.linear(x, f"{block}.ffn_up"))
    return builder.linear(inner, f"{block}.ffn_down")


class _Attention:
    """Attention of every row to all rows of its text; queries and keys are rotated where positions are not embedded."""

    def __init__(self, builder: _Builder, positions: Any) -> None:
        self._builder = builder
        self._grid = builder.parameter("grid", [-1, -1], np.int64)
        self._mask = builder.parameter("mask", [-1, 1, 1, -1], np.float32)
        self._back = builder.parameter("back", [-1], np.int64)
        self._width = int(builder.number("embedding_length"))
        self._heads = int(builder.number("attention.head_count"))
        self._size = self._width // self._heads
        self._rotate = None if "position_embd.weight" in builder.weights else self._rotation(positions)

    def __call__(self, x: Any, block: str) -> Any:
        """Return the mixed values of all heads, a row for each of ``x``."""
        builder, ops = self._builder, self._builder.operators
        query, key, value = self._projections(x, block)
        if self._rotate is not None:
            query, key = self._rotate(query), self._rotate(key)
        scale = ops.constant(np.float32(self._size**-0.5))
        mixed = ops.scaled_dot_product_attention(
            *(self._heads_of(part) for part in (query, key, value)), self._mask, scale, causal=False
        )
        lines = ops.transpose(mixed, builder.integers(0, 2, 1, 3))
        cells = ops.reshape(lines, builder.integers(-1, self._width), False)
        return ops.gather(cells, self._back, ops.constant(np.int64(0)))

    def _projections(self, x: Any, block: str) -> list[Any]:
        """Return queries, keys and values, whose matrices the file has one by one or as one."""
        if f"{block}.attn_qkv.weight" not in self._builder.weights:
            return [self._builder.linear(x, f"{block}.attn_{part}") for part in "qkv"]
        starts = (0, self._width, 2 * self._width)
        parts = [slice(start, start + self._width) for start in starts]
        return [self._builder.linear(x, f"{block}.attn_qkv", rows) for rows in parts]

    def _heads_of(self, rows: Any) -> Any:
        """Return rows as [texts, heads, longest, head size]."""
        builder, ops = self._builder, self._builder.operators
        lines = ops.gather(rows, self._grid, ops.constant(np.int64(0)))
        parts = ops.reshape(lines, builder.integers(0, 0, self._heads, self._size), True)
        return ops.transpose(parts, builder.integers(0, 2, 1, 3))

    def _rotation(self, positions: Any) -> Callable[[Any], Any]:
        """Return what turns each head's first half against its second by angles that grow with the position (RoPE, NeoX)."""
        builder, ops = self._builder, self._builder.operators
        half = self._size // 2
        base = builder.number("rope.freq_base", 10000.0)
        frequencies = base ** (-np.arange(half, dtype=np.float64) / half)
        column = ops.unsqueeze(ops.convert(positions, np.float32), builder.integers(1, 2))
        angles = ops.multiply(column, ops.constant(frequencies.astype(np.float32).reshape(1, 1, half)))
        cosine, sine = ops.cos(angles), ops.sin(angles)

        def rotate(rows: Any) -> Any:
            heads = ops.reshape(rows, builder.integers(0, self._heads, self._size), True)
            first, second = ops.split(heads, ops.constant(np.int64(2)), 2).outputs()
            turned = ops.concat(
                [
                    ops.subtract(ops.multiply(first, cosine), ops.multiply(second, sine)),
                    ops.add(ops.multiply(second, cosine), ops.multiply(first, sine)),
                ],
                2,
            )
            return ops.reshape(turned, builder.integers(0, self._width), True)

        return rotate
