"""An embedding model in this machine."""

import time
from collections.abc import Sequence
from typing import Literal

import numpy as np

from antiphon.backends.local.errors import as_api_error
from antiphon.backends.local.openai_ids import with_texts
from antiphon.backends.local.tokens import plain_prompt
from antiphon.engine import Engine
from antiphon.engine.errors import ContextOverflow, EngineError
from antiphon.engine.ipc.messages import Text
from antiphon.protocol.embeddings import EmbeddingRequest, EmbeddingResult
from antiphon.protocol.errors import ApiError, prompt_too_long
from antiphon.protocol.model_limits import check_token_ids


class LocalEmbedding:
    """One embedding model. ``name`` is its catalogue id.

    ``pad_to`` maps an alias to the dimensions that vectors stored under that name have: shorter vectors are padded with
    zeros, which leaves every cosine similarity as it is.
    """

    kind: Literal["embedding"] = "embedding"

    def __init__(self, name: str, engine: Engine, pad_to: dict[str, int] | None = None) -> None:
        self.name = name
        self.engine = engine
        self._pad_to = pad_to or {}
        self.is_started = False

    @property
    def context_length(self) -> int | None:
        """Tokens of the longest input; None before the model is loaded."""
        return self.engine.info.context_length if self.is_started else None

    async def start(self) -> None:
        """Start the engine."""
        await self.engine.start()
        self.is_started = True

    async def embed(self, request: EmbeddingRequest) -> EmbeddingResult:
        """Return one unit vector per input, cut or padded to the dimensions asked for."""
        size = self.engine.info.embedding_size
        request = await with_texts(request, self.name)
        check_token_ids(request.inputs, self.engine.info.vocabulary_size, "input")
        wanted = self._dimensions(request, size)
        began = time.perf_counter()
        try:
            embedded = await self.engine.embed(tuple(plain_prompt(text) for text in request.inputs), request.priority)
        except ContextOverflow as error:
            raise prompt_too_long(error.limit, error.requested, 0, at_least=error.is_lower_bound) from error
        except EngineError as error:
            raise as_api_error(error) from error
        vectors = tuple(_resize(vector, size, wanted) for vector in embedded.vectors)
        return EmbeddingResult(
            model=self.name,
            vectors=vectors,
            prompt_tokens=sum(embedded.lengths),
            compute_s=time.perf_counter() - began,
            input_tokens=embedded.lengths,
        )

    async def vectors(self, texts: Sequence[str]) -> Sequence[Sequence[float]] | None:
        """Return the vector of each text; None where the engine cannot give them."""
        prompts = tuple((Text(text),) for text in texts)
        try:
            embedded = await self.engine.embed(prompts)
        except EngineError:
            return None
        return [np.frombuffer(vector, dtype="<f4").tolist() for vector in embedded.vectors]

    def _dimensions(self, request: EmbeddingRequest, size: int) -> int:
        natural = self._pad_to.get(request.model, size)
        wanted = request.dimensions or natural
        if wanted > natural:
            raise ApiError(
                400,
                f"Invalid value for 'dimensions' = {wanted}. Must be less than or equal to {natural}.",
                param="dimensions",
            )
        return wanted


def _resize(vector: bytes, size: int, wanted: int) -> bytes:
    """Pad with zeros, or cut and scale back to unit length, as OpenAI does for ``dimensions``."""
    if wanted >= size:
        return vector + bytes(4 * (wanted - size))
    cut = np.frombuffer(vector, dtype="<f4")[:wanted]
    norm = float(np.linalg.norm(cut))
    return (cut / norm if norm > 0 else cut).astype("<f4").tobytes()
