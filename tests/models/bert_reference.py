"""BERT's forward pass in plain float32 numpy, to hold a converted model against its own weights."""

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
_erf = np.vectorize(math.erf, otypes=[np.float32])


def embed(weights: dict[str, Array], ids: list[int], *, num_heads: int) -> Array:
    """The mean of the last layer's tokens, of unit length."""
    mean = last_layer(weights, ids, num_heads=num_heads).mean(0)
    return mean / np.linalg.norm(mean)


def relevance(weights: dict[str, Array], ids: list[int], *, num_heads: int) -> float:
    """The sigmoid of the classification head's only output, over the first token."""
    first = last_layer(weights, ids, num_heads=num_heads)[:1]
    logit = float(_linear(weights, np.tanh(_linear(weights, first, "pooler.dense")), "classifier").item())
    return 1 / (1 + math.exp(-logit))


def last_layer(weights: dict[str, Array], ids: list[int], *, num_heads: int) -> Array:
    """The last layer's output for each token."""
    token, position = weights["embeddings.word_embeddings.weight"], weights["embeddings.position_embeddings.weight"]
    x = token[ids] + position[: len(ids)] + weights["embeddings.token_type_embeddings.weight"][0]
    x = _norm(weights, x, "embeddings.LayerNorm")
    layer = 0
    while f"encoder.layer.{layer}.output.dense.weight" in weights:
        x = _layer(weights, x, f"encoder.layer.{layer}", num_heads)
        layer += 1
    return x


def _layer(weights: dict[str, Array], x: Array, at: str, num_heads: int) -> Array:
    length, hidden = x.shape
    names = ("query", "key", "value")
    heads = (_linear(weights, x, f"{at}.attention.self.{n}").reshape(length, num_heads, -1) for n in names)
    q, k, v = (head.transpose(1, 0, 2) for head in heads)
    scores = q @ k.transpose(0, 2, 1) / math.sqrt(hidden // num_heads)
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = (scores / scores.sum(-1, keepdims=True)) @ v
    mixed = _linear(weights, mixed.transpose(1, 0, 2).reshape(length, hidden), f"{at}.attention.output.dense")
    x = _norm(weights, x + mixed, f"{at}.attention.output.LayerNorm")
    inner = _linear(weights, x, f"{at}.intermediate.dense")
    inner = inner * 0.5 * (1 + _erf(inner / math.sqrt(2)))
    return _norm(weights, x + _linear(weights, inner, f"{at}.output.dense"), f"{at}.output.LayerNorm")


def _linear(weights: dict[str, Array], x: Array, at: str) -> Array:
    return x @ weights[f"{at}.weight"].T + weights[f"{at}.bias"]


def _norm(weights: dict[str, Array], x: Array, at: str) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    return (
        centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12) * weights[f"{at}.weight"]
        + weights[f"{at}.bias"]
    )
