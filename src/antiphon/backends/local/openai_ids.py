"""Token ids under OpenAI's model names: they are ids of OpenAI's vocabulary, not of the model that answers.

Clients tokenise for the name that they were given: LangChain's ``OpenAIEmbeddings`` sends ids of ``cl100k_base`` for
``text-embedding-3-small``. Such ids are decoded with the encoding of the name, and the text is encoded anew by the model.
Under the model's own name ids are its own. The encodings are tiktoken's (``toolkit/tokens/ranks.py`` fetches their files).
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakKeyDictionary

import msgspec

from antiphon.engine import Engine
from antiphon.engine.ipc.messages import Text
from antiphon.protocol import problems
from antiphon.protocol.chat import ChatRequest, Sampling
from antiphon.protocol.completions import CompletionRequest
from antiphon.protocol.embeddings import EmbeddingRequest
from antiphon.protocol.errors import ApiError
from antiphon.protocol.token_input import Input
from antiphon.toolkit.errors import TokenizerError
from antiphon.toolkit.tokens.ranks import RANK_FILES, load_encoding

if TYPE_CHECKING:
    import tiktoken

Generation = TypeVar("Generation", ChatRequest, CompletionRequest)

_NEWER_MODELS = ("gpt-", "chatgpt-", "o1", "o3", "o4", "codex-")
"""Beginnings of names that tiktoken does not know yet: OpenAI's chat models have used one encoding since gpt-4o."""

_loading: "WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, asyncio.Task[tiktoken.Encoding]]]"
_loading = WeakKeyDictionary()


def encoding_of(request: ChatRequest | CompletionRequest | EmbeddingRequest, own_name: str) -> str | None:
    """Return the encoding of the ids in ``request``; None where they are the model's own.

    The name is the one that the client sent, whatever a route made of it.
    """
    import tiktoken.model  # noqa: PLC0415 - only requests with token ids need it

    name = request.raw.get("model", request.model)
    if name == own_name:
        return None
    try:
        return tiktoken.model.encoding_name_for_model(name)
    except KeyError:
        return "o200k_base" if name.startswith(_NEWER_MODELS) else None


async def with_texts(request: EmbeddingRequest, own_name: str) -> EmbeddingRequest:
    """Return the request with ids of OpenAI's vocabulary decoded. Raises ``ApiError`` 400."""
    inputs = await _texts(request, request.inputs, own_name, "input")
    return request if inputs is request.inputs else msgspec.structs.replace(request, inputs=inputs)


async def with_own_ids(request: Generation, own_name: str, engine: Engine) -> Generation:
    """Return the request with prompts decoded and biases of the model's own tokens.

    Raises ``ApiError`` 400 for ids that OpenAI's vocabulary does not have, and for a bias on a text that is not one token
    of the model.
    """
    if isinstance(request, CompletionRequest):
        prompts = await _texts(request, request.prompts, own_name, "prompt")
        request = request if prompts is request.prompts else msgspec.structs.replace(request, prompts=prompts)
    sampling = await _sampling(request, own_name, engine)
    return request if sampling is request.sampling else msgspec.structs.replace(request, sampling=sampling)


async def _texts(
    request: CompletionRequest | EmbeddingRequest, inputs: tuple[Input, ...], own_name: str, param: str
) -> tuple[Input, ...]:
    if all(isinstance(text, str) for text in inputs):
        return inputs
    name = encoding_of(request, own_name)
    if name is None:
        return inputs
    encoding = await _encoding(name, param)
    return await asyncio.to_thread(_decoded, encoding, inputs, param)


def _decoded(encoding: "tiktoken.Encoding", inputs: Sequence[Input], param: str) -> tuple[str, ...]:
    special = {encoding.encode_single_token(text) for text in encoding.special_tokens_set}
    texts: list[str] = []
    for tokens in inputs:
        if isinstance(tokens, str):
            texts.append(tokens)
            continue
        if bad := special.intersection(tokens):
            raise _invalid(param, min(bad), encoding, "is a control token of")
        try:
            # A text that was cut between two tokens may begin or end with a part of a character.
            texts.append(encoding.decode(list(tokens), errors="replace"))
        except (KeyError, OverflowError):
            raise _invalid(param, _first_unknown(encoding, tokens), encoding, "is not a token of") from None
    return tuple(texts)


def _first_unknown(encoding: "tiktoken.Encoding", tokens: Sequence[int]) -> int:
    return next(token for token in tokens if _bytes_of(encoding, token) is None)


def _bytes_of(encoding: "tiktoken.Encoding", token: int) -> bytes | None:
    try:
        return encoding.decode_single_token_bytes(token)
    except (KeyError, OverflowError):
        return None


def _invalid(param: str, token: int, encoding: "tiktoken.Encoding", what: str) -> ApiError:
    return problems.bad_request(
        f"Invalid token id in '{param}': {token} {what} OpenAI's encoding {encoding.name}, which ids under an OpenAI model "
        "name are read with. Send text, or this model's own ids under its own name.",
        param,
        "invalid_value",
    )


async def _sampling(request: ChatRequest | CompletionRequest, own_name: str, engine: Engine) -> Sampling:
    biases = request.sampling.logit_bias
    name = encoding_of(request, own_name) if biases else None
    if name is None:
        return request.sampling
    encoding = await _encoding(name, "logit_bias")
    return msgspec.structs.replace(request.sampling, logit_bias=await _own_biases(encoding, biases, own_name, engine))


async def _own_biases(
    encoding: "tiktoken.Encoding", biases: Mapping[int, float], own_name: str, engine: Engine
) -> dict[int, float]:
    texts = {token: _text_of(encoding, token) for token in biases}
    # Behind a line break a text is tokenised as in the middle of an answer: no vocabulary puts a space before it there.
    prompts = [(Text("\n"),), *((Text("\n" + text),) for text in texts.values() if text is not None)]
    start, *rest = (await engine.tokenize(tuple(prompts))).ids
    tokenised = iter(rest)
    own: dict[int, float] = {}
    for token, text in texts.items():
        ids: Sequence[int] = next(tokenised) if text is not None else ()
        if len(ids) != len(start) + 1 or ids[: len(start)] != start:
            shown = repr(text) if text is not None else "not a text"
            raise problems.bad_request(
                f"Unsupported value: 'logit_bias' has the token {token} of OpenAI's encoding {encoding.name} ({shown}), which "
                f"is not one token of the model `{own_name}`. Ask for `{own_name}` by name, with ids of its own vocabulary.",
                "logit_bias",
                "unsupported_value",
            )
        own[ids[len(start)]] = biases[token]
    return own


def _text_of(encoding: "tiktoken.Encoding", token: int) -> str | None:
    """Return the text of a token; None for a control token and for a part of a character."""
    raw = _bytes_of(encoding, token)
    if raw is None:
        raise _invalid("logit_bias", token, encoding, "is not a token of")
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return None
    return None if text in encoding.special_tokens_set else text


async def _encoding(name: str, param: str) -> "tiktoken.Encoding":
    """Return the encoding; its file is fetched at the first use, once for all requests that wait for it."""
    tasks = _loading.setdefault(asyncio.get_running_loop(), {})
    task = tasks.get(name)
    if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
        task = tasks[name] = asyncio.create_task(asyncio.to_thread(_load, name))
    try:
        return await asyncio.shield(task)
    except TokenizerError as error:
        raise problems.bad_request(
            f"Unsupported value: '{param}' has token ids under an OpenAI model name, and OpenAI's encoding {name} is not on "
            f"this machine ({error.hint}). Send text, or the model's own ids under its own name.",
            param,
            "unsupported_value",
        ) from error


def _load(name: str) -> "tiktoken.Encoding":
    if name not in RANK_FILES:
        raise TokenizerError(f"The encoding {name} is not supported", hint="its models have retired")
    return load_encoding(name)
