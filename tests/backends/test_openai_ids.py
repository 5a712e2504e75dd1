"""Token ids under OpenAI's names are ids of OpenAI's vocabulary, read by the model that answers as the text they are."""

from collections.abc import AsyncGenerator, Callable
from typing import Any

import msgspec
import numpy as np
import pytest
import tiktoken
from tests.backends.conformance import collect
from tests.installed import engine_settings

from antiphon.backends.local.backend import LocalBackend
from antiphon.backends.local.chat import LocalChat
from antiphon.backends.local.embedding import LocalEmbedding
from antiphon.backends.local.openai_ids import encoding_of
from antiphon.engine import Engine
from antiphon.engine.ipc.messages import Text
from antiphon.models import Catalogue, ModelStore
from antiphon.protocol import parse_chat, parse_completion, parse_embedding
from antiphon.protocol.embeddings import EmbeddingRequest
from antiphon.protocol.errors import ApiError
from antiphon.protocol.events import TextDelta
from antiphon.toolkit.errors import TokenizerError
from antiphon.toolkit.tokens.ranks import load_encoding

CHAT, EMBEDDING = "smollm2-135m-instruct", "all-minilm-l6-v2"
CHAT_ALIAS, EMBEDDING_ALIAS = "gpt-4o-mini", "text-embedding-3-small"
TEXTS = ["Oslo is a city.", "日本語 😀", " leading blanks", "caf\u00e9\n\n\ttabs", "x" * 300]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def backend() -> AsyncGenerator[LocalBackend]:
    catalogue, store = Catalogue.default(), ModelStore()

    def engine(name: str, **settings: Any) -> Engine:
        return Engine(engine_settings(store.ensure(catalogue.resolve(name).entry), **settings))

    chat = LocalChat(CHAT, engine(CHAT, context_size=2048))
    embedding = LocalEmbedding(EMBEDDING, engine(EMBEDDING))
    backend = LocalBackend({CHAT: chat, CHAT_ALIAS: chat, EMBEDDING: embedding, EMBEDDING_ALIAS: embedding})
    await backend.start()
    yield backend
    await backend.aclose()


def ids(name: str, text: str) -> list[int]:
    return load_encoding(name).encode(text, disallowed_special=())


def embedding(model: str, given: Any) -> EmbeddingRequest:
    return parse_embedding({"model": model, "input": given})


async def vectors(backend: LocalBackend, request: EmbeddingRequest) -> list[np.ndarray]:
    return [np.frombuffer(vector, "<f4") for vector in (await backend.embed(request)).vectors]


async def text_of(backend: LocalBackend, **body: Any) -> str:
    """Return the continuation of a prompt, drawn with temperature 0."""
    request = parse_completion({"temperature": 0, "max_tokens": 12} | body)
    return "".join(event.text for event in await collect(backend.complete(request)) if isinstance(event, TextDelta))


async def answer(backend: LocalBackend, **body: Any) -> str:
    messages = [{"role": "user", "content": "Name a colour."}]
    request = parse_chat({"messages": messages, "temperature": 0, "max_tokens": 12} | body)
    return "".join(event.text for event in await collect(backend.chat(request)) if isinstance(event, TextDelta))


@pytest.mark.parametrize(
    ("name", "encoding"),
    [
        ("text-embedding-3-small", "cl100k_base"),
        ("text-embedding-3-large", "cl100k_base"),
        ("text-embedding-ada-002", "cl100k_base"),
        ("gpt-3.5-turbo", "cl100k_base"),
        ("gpt-4-0613", "cl100k_base"),
        ("gpt-4o-mini", "o200k_base"),
        ("gpt-5-mini", "o200k_base"),
        ("gpt-5.6-luna", "o200k_base"),
        ("gpt-7", "o200k_base"),
        ("o3-mini", "o200k_base"),
        ("my-alias", None),
        ("own", None),
    ],
)
def test_the_name_says_whose_ids_they_are(name: str, encoding: str | None) -> None:
    """OpenAI's names, also those that tiktoken does not know yet; any other name is the model's own."""
    assert encoding_of(embedding(name, [1]), "own") == encoding
    assert encoding_of(embedding(name, [1]), name) is None


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.anyio
class TestOnTheDefaultModels:
    async def test_ids_are_embedded_as_their_text(self, backend: LocalBackend) -> None:
        """What LangChain sends under an OpenAI name gives the vector of the text, alone and in a list."""
        wanted = await vectors(backend, embedding(EMBEDDING_ALIAS, TEXTS))
        many = await vectors(backend, embedding(EMBEDDING_ALIAS, [ids("cl100k_base", text) for text in TEXTS]))
        one = await vectors(backend, embedding(EMBEDDING_ALIAS, ids("cl100k_base", TEXTS[0])))
        for vector, found in zip([*wanted, wanted[0]], [*many, *one], strict=True):
            assert float(vector @ found) > 0.9999

    async def test_under_its_own_name_ids_are_the_models_own(self, backend: LocalBackend) -> None:
        """The ids of the model's vocabulary are what they always were, and checked against its size."""
        own = (await backend._find(EMBEDDING).engine.tokenize(((Text(TEXTS[0]),),))).ids[0]
        (vector,) = await vectors(backend, embedding(EMBEDDING, list(own)))
        (wanted,) = await vectors(backend, embedding(EMBEDDING, TEXTS[0]))
        assert float(vector @ wanted) > 0.999
        with pytest.raises(ApiError, match="Maximum value is"):
            await backend.embed(embedding(EMBEDDING, [99_999]))

    async def test_a_route_does_not_hide_the_name_that_was_asked_for(self, backend: LocalBackend) -> None:
        """A router sends the model's own name on; the client tokenised for the name that it knows."""
        request = embedding(EMBEDDING_ALIAS, ids("cl100k_base", TEXTS[0]))
        (vector,) = await vectors(backend, msgspec.structs.replace(request, model=EMBEDDING))
        (wanted,) = await vectors(backend, embedding(EMBEDDING, TEXTS[0]))
        assert float(vector @ wanted) > 0.9999

    async def test_prompts_are_continued_as_their_text(self, backend: LocalBackend) -> None:
        """Completions read ids in the same way, and an echo shows the text."""
        prompt = "The capital of France is"
        wanted = await text_of(backend, model=CHAT, prompt=prompt, echo=True)
        given = ids("o200k_base", prompt)
        assert await text_of(backend, model=CHAT_ALIAS, prompt=given, echo=True) == wanted
        assert await text_of(backend, model=CHAT_ALIAS, prompt=[given], echo=True) == wanted

    @pytest.mark.parametrize("ask", [text_of, answer])
    async def test_a_bias_is_on_the_token_of_the_same_text(
        self, backend: LocalBackend, ask: Callable[..., Any]
    ) -> None:
        """A token of OpenAI's vocabulary that the model has as well is biased under the model's own id."""
        wanted, *_ = ids("o200k_base", " green")
        extra = {"prompt": "A"} if ask is text_of else {}
        said = await ask(backend, model=CHAT_ALIAS, logit_bias={str(wanted): 100}, max_tokens=3, **extra)
        assert said.strip() == "green green green"

    async def test_a_bias_on_no_token_of_the_model_is_refused(self, backend: LocalBackend) -> None:
        """A text that the model writes with several tokens, a part of a character, a control token: each with the reason."""
        o200k = load_encoding("o200k_base")
        several = next(t for t in range(199_000, 150_000, -1) if len(o200k.decode_single_token_bytes(t)) > 12)
        part = o200k.encode("😀")[0]
        end = o200k.encode_single_token("<|endoftext|>")
        for token in (several, part, end):
            with pytest.raises(ApiError, match="is not one token of the model") as caught:
                await answer(backend, model=CHAT_ALIAS, logit_bias={str(token): 1})
            assert (caught.value.param, caught.value.code) == ("logit_bias", "unsupported_value")
        assert await answer(backend, model=CHAT, logit_bias={"2": -100})

    @pytest.mark.parametrize("token", [100_257, 100_256, 100_300, 2**31 - 1])
    async def test_ids_that_are_no_text_are_refused(self, backend: LocalBackend, token: int) -> None:
        """Control tokens and numbers outside the vocabulary are named, with the encoding that was used."""
        with pytest.raises(ApiError, match=rf"Invalid token id in 'input': {token} .* cl100k_base") as caught:
            await backend.embed(embedding(EMBEDDING_ALIAS, [9906, token]))
        assert (caught.value.status, caught.value.param, caught.value.code) == (400, "input", "invalid_value")

    async def test_without_the_encoding_ids_are_refused_with_the_reason(
        self, backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A machine that cannot fetch OpenAI's files says so, and what to do, instead of embedding another text."""

        def fail(name: str) -> tiktoken.Encoding:
            raise TokenizerError(f"no {name}", hint="set TIKTOKEN_CACHE_DIR")

        monkeypatch.setattr("antiphon.backends.local.openai_ids.load_encoding", fail)
        monkeypatch.setattr("antiphon.backends.local.openai_ids._loading", {})
        with pytest.raises(ApiError, match=r"is not on this machine .*TIKTOKEN_CACHE_DIR") as caught:
            await backend.embed(embedding(EMBEDDING_ALIAS, [9906]))
        assert (caught.value.param, caught.value.code) == ("input", "unsupported_value")
        assert await vectors(backend, embedding(EMBEDDING_ALIAS, "text needs no encoding"))
