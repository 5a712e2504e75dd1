"""The vocabulary of a converted model, from the GGUF file that it was made of."""

from pathlib import Path
from typing import Any, Final

import msgspec

from antiphon.engine.model.base import ModelError
from antiphon.engine.model.llama import LlamaError, Model
from antiphon.engine.model.native.library import LibraryRefusedError
from antiphon.engine.model.tokenisers.facts import UnknownTokenizerError, read_facts
from antiphon.engine.model.vocabulary import Vocabulary

_HINT: Final = "install llama.cpp, which may know it: pip install 'antiphon[llama]'"


class Tokens(msgspec.Struct, frozen=True):
    """A vocabulary and the file's metadata; ``owner`` has to live as long as the vocabulary."""

    vocabulary: Vocabulary
    metadata: dict[str, str]
    owner: Any = None


def read_tokens(source: Path) -> Tokens:
    """Return the vocabulary that is built from the metadata; where it is of an unknown kind, llama.cpp's.

    Raises:
        ModelError: the file cannot be read, or its tokenizer is unknown and llama.cpp is not here or does not know it either.
    """
    # Imported late: llama.cpp needs no package for tokenising.
    from antiphon.engine.model.tokenisers.read import build_vocabulary  # noqa: PLC0415

    facts = read_facts(source)
    try:
        return Tokens(build_vocabulary(facts), facts.metadata_texts)
    except UnknownTokenizerError as unknown:
        try:
            model = Model(source, vocabulary_only=True)
        except LibraryRefusedError as error:
            raise ModelError(f"{unknown}; {_HINT}") from error
        except LlamaError as error:
            raise ModelError(f"{unknown}; {error}") from error
        return Tokens(model.vocabulary, model.metadata, model)
