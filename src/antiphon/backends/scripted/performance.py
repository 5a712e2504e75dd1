"""What happens for one request to a script, step by step: events, pauses, and the reply's error or fault.

Pure: the backend performs the steps on its clock, ``antiphon.testing`` without a server.
"""

from collections.abc import Iterable, Iterator, Sequence

import msgspec
import numpy as np

from antiphon.backends.scripted.playback import PlayedChoice, ReplyLimits, play_reply
from antiphon.backends.scripted.script import Fault, Reply, tokens
from antiphon.protocol.chat import ChatRequest
from antiphon.protocol.completions import CompletionRequest
from antiphon.protocol.embeddings import EmbeddingRequest, EmbeddingResult
from antiphon.protocol.errors import ApiError
from antiphon.protocol.events import ChoiceFinished, Completed, Event, Started, TextDelta, Usage
from antiphon.protocol.rerank import RerankRequest, RerankResult

_TOKENS_PER_MESSAGE = 4


class Pause(msgspec.Struct, frozen=True):
    """Nothing happens for ``seconds``, above 0."""

    seconds: float


class Failure(msgspec.Struct, frozen=True):
    """The request ends here, with an error or a fault."""

    error: ApiError | None
    fault: Fault | None


Step = Event | Pause | Failure


def chat_steps(request: ChatRequest, reply: Reply) -> Iterator[Step]:
    """Yield the steps of ``reply`` to a conversation."""
    text = _text(reply, last_message(request))
    limits = ReplyLimits(request.max_tokens, request.stop, request.top_logprobs if request.logprobs else None)
    choices = [play_reply(reply, text, index, limits) for index in range(request.n)]
    return _steps(request.model, reply, choices, reply.usage or _usage(choices, chat_tokens(request)))


def completion_steps(request: CompletionRequest, reply: Reply) -> Iterator[Step]:
    """Yield the steps of ``reply`` to each prompt of a text completion."""
    prompts = [as_text(prompt) for prompt in request.prompts]
    limits = ReplyLimits(request.max_tokens, request.stop, request.logprobs)
    choices = [
        play_reply(reply, _text(reply, prompts[index // request.n]), index, limits)
        for index in range(len(prompts) * request.n)
    ]
    if request.echo:
        choices = [_with_prompt(choice, prompts[i // request.n], i) for i, choice in enumerate(choices)]
    num_echoed = len(choices) if request.echo else 0
    usage = reply.usage or _usage(choices, sum(map(count, request.prompts)), num_echoed)
    return _steps(request.model, reply, choices, usage)


def waiting_steps(reply: Reply) -> Iterator[Step]:
    """Yield what happens before an answer without choices: vectors, or the relevance of documents."""
    return _steps("", reply, (), Usage())


def embedding_result(request: EmbeddingRequest, reply: Reply, size: int) -> EmbeddingResult:
    """Return vectors of ``size`` numbers, or of as many as the request asks for (not more than ``size``)."""
    counts = tuple(map(count, request.inputs))
    return EmbeddingResult(
        model=request.model,
        vectors=tuple(_vector(as_text(text), size, request.dimensions or size) for text in request.inputs),
        prompt_tokens=reply.usage.prompt_tokens if reply.usage else sum(counts),
        input_tokens=None if reply.usage else counts,
    )


def rerank_result(request: RerankRequest, reply: Reply) -> RerankResult:
    """Return as each document's relevance the share of the question's words that it has."""
    words = _words(request.query)
    counts = [count(request.query) + count(document) for document in request.documents]
    return RerankResult(
        model=request.model,
        relevance=tuple(len(words & _words(document)) / max(len(words), 1) for document in request.documents),
        prompt_tokens=reply.usage.prompt_tokens if reply.usage else sum(counts),
    )


def last_message(request: ChatRequest) -> str:
    """Return the text that a script's ``last_message`` is searched for in."""
    return request.messages[-1].content or ""


def as_text(prompt: str | tuple[int, ...]) -> str:
    """Token ids have no vocabulary here; they are written as numbers."""
    return prompt if isinstance(prompt, str) else " ".join(map(str, prompt))


def count(prompt: str | tuple[int, ...]) -> int:
    """Return the tokens of a prompt or an input."""
    return len(tokens(prompt)) if isinstance(prompt, str) else len(prompt)


def chat_tokens(request: ChatRequest) -> int:
    """Return the tokens of a conversation with its tools."""
    texts: Iterable[str] = (
        *(message.content or "" for message in request.messages),
        *(call.function.arguments for message in request.messages for call in message.tool_calls),
        *(msgspec.json.encode(tool).decode() for tool in request.tools),
    )
    return sum(len(tokens(text)) for text in texts) + _TOKENS_PER_MESSAGE * len(request.messages)


def _steps(model: str, reply: Reply, choices: Sequence[PlayedChoice], usage: Usage) -> Iterator[Step]:
    failure = Failure(reply.error and reply.error.exception(), reply.fault) if reply.fails else None
    if reply.first_token_s:
        yield Pause(reply.first_token_s)
    if failure is not None and reply.after == 0:
        yield failure
        return
    yield Started(model, usage.prompt_tokens, usage.cached_tokens)
    num_sent = 0
    for index, choice in enumerate(choices):
        for event in choice.events:
            if num_sent and reply.token_s:
                yield Pause(reply.token_s)
            yield event
            num_sent += 1
            if failure is not None and num_sent == reply.after:
                yield failure
                return
        yield ChoiceFinished(index, choice.reason)
    # A reply shorter than ``after`` still fails: a test must not seem to pass because the fault never came.
    if failure is not None:
        yield failure
        return
    yield Completed(usage)


def _text(reply: Reply, last: str) -> str:
    if reply.text is not None:
        return reply.text
    return "" if reply.tool_calls or reply.refusal else last


def _usage(choices: Sequence[PlayedChoice], prompt_tokens: int, num_echoed: int = 0) -> Usage:
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=sum(len(choice.events) for choice in choices) - num_echoed,
        reasoning_tokens=sum(choice.reasoning_tokens for choice in choices),
    )


def _with_prompt(choice: PlayedChoice, prompt: str, index: int) -> PlayedChoice:
    return msgspec.structs.replace(choice, events=(TextDelta(index, prompt), *choice.events))


def _words(text: str) -> set[str]:
    return {word.strip() for word in tokens(text.lower()) if word.strip().isalnum()}


def _vector(text: str, size: int, dimensions: int) -> bytes:
    """Return a unit vector that is the same for the same text and near for texts that share words."""
    total = np.zeros(size)
    for word in tokens(text.lower()) or [""]:
        seed = int.from_bytes(word.strip().encode()[:16].ljust(16, b"\0"), "little")
        total += np.random.default_rng(seed).standard_normal(size)
    kept = total[:dimensions]
    return (kept / np.linalg.norm(kept)).astype("<f4").tobytes()
