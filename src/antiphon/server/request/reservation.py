"""The tokens that a request reserves when it is admitted, before its real usage is known: OpenAI's rule.

``max(max_tokens, characters / 4)`` tokens. Afterwards the reservation is settled with the real usage; if an upstream never
reports it, the same rule estimates it.
"""

import msgspec

from antiphon.protocol.chat import ChatRequest
from antiphon.protocol.completions import CompletionRequest
from antiphon.protocol.embeddings import EmbeddingRequest
from antiphon.protocol.relay import RelayRequest
from antiphon.protocol.rerank import RerankRequest
from antiphon.wire.token_estimate import CHARACTERS_PER_TOKEN


class TokenReservation(msgspec.Struct, frozen=True):
    """Tokens of the prompt, estimated by its characters, and of the longest answer requested, 0 if no limit was given."""

    prompt: int
    completion: int

    @property
    def reserved(self) -> int:
        """The tokens that the request reserves."""
        return max(1, self.prompt, self.completion)


def reservation_of_chat(request: ChatRequest) -> TokenReservation:
    """Return the tokens to reserve for a conversation."""
    characters = sum(
        len(message.content or "") + sum(len(call.function.arguments) for call in message.tool_calls)
        for message in request.messages
    )
    return _reserve(characters // CHARACTERS_PER_TOKEN, request.max_tokens, request.n)


def reservation_of_completion(request: CompletionRequest) -> TokenReservation:
    """Return the tokens to reserve for legacy prompts."""
    prompt = sum(len(p) // CHARACTERS_PER_TOKEN if isinstance(p, str) else len(p) for p in request.prompts)
    return _reserve(prompt, request.max_tokens, max(request.n, request.best_of) * len(request.prompts))


def reservation_of_embedding(request: EmbeddingRequest) -> TokenReservation:
    """Return the tokens to reserve for texts to embed."""
    return _reserve(
        sum(len(i) // CHARACTERS_PER_TOKEN if isinstance(i, str) else len(i) for i in request.inputs), None, 1
    )


def reservation_of_rerank(request: RerankRequest) -> TokenReservation:
    """Return the tokens to reserve for a question that is read with each of the documents."""
    characters = len(request.query) * len(request.documents) + sum(map(len, request.documents))
    return _reserve(characters // CHARACTERS_PER_TOKEN, None, 1)


def reservation_of_relay(request: RelayRequest) -> TokenReservation:
    """Return the tokens to reserve for a request that is relayed unread."""
    return _reserve(request.input_bytes // CHARACTERS_PER_TOKEN, request.max_tokens, request.n)


def _reserve(prompt: int, max_tokens: int | None, n: int) -> TokenReservation:
    return TokenReservation(prompt, (max_tokens or 0) * n)
