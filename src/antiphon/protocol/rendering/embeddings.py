"""The answer of ``POST /v1/embeddings``."""

from base64 import b64encode
from typing import Literal

import numpy as np

from antiphon.protocol.embeddings import EmbeddingRequest, EmbeddingResult
from antiphon.protocol.rendering.frames import encode


def render_embeddings(request: EmbeddingRequest, result: EmbeddingResult) -> bytes:
    """Return the answer as JSON; base64 is of little-endian float32, and floats parse back to the same float32."""
    data = b",".join(
        b'{"object":"embedding","index":%d,"embedding":%b}' % (index, _vector(vector, request.encoding_format))
        for index, vector in enumerate(result.vectors)
    )
    usage = {"prompt_tokens": result.prompt_tokens, "total_tokens": result.prompt_tokens}
    tail = encode({"model": result.model, "usage": usage})[1:]
    return b'{"object":"list","data":[' + data + b"]," + tail


def _vector(vector: bytes, encoding_format: Literal["float", "base64"]) -> bytes:
    if encoding_format == "base64":
        return b'"' + b64encode(vector) + b'"'
    return encode(np.frombuffer(vector, dtype="<f4").tolist())
