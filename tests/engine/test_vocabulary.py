"""The vocabulary that is built from a file's metadata is llama.cpp's: the same tokens for every text, and the same facts."""

import json
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.engine import tiny_models
from tests.engine.conftest import stored
from tests.installed import NO_OPENVINO, needs_llama

# The vocabulary is OpenVINO's: llama.cpp has its own, and comes without this package.
pytest.importorskip("tokenizers", reason=NO_OPENVINO)

from tests.engine import vocabulary_files
from tests.engine.vocabulary_files import ADDED, CONTROL, NORMAL

from antiphon.engine.model.llama import Model
from antiphon.engine.model.tokenisers import byte_level
from antiphon.engine.model.tokenisers.facts import FileError, UnknownTokenizerError, read_facts
from antiphon.engine.model.tokenisers.pretokenisers import KNOWN
from antiphon.engine.model.tokenisers.read import build_vocabulary
from antiphon.engine.model.vocabulary import Vocabulary
from antiphon.engine.sampling.constraint import GrammarCompiler, token_trie

FACTS = ("size", "adds_bos", "named", "data", "end_tokens", "control_tokens", "marked", "longest_token", "pair")
SPECIAL = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<s>", "</s>", "<unk>", "[CLS]", "[MASK]", "[UNK]", "<|end|>")
PIECES = (
    *SPECIAL, " ", "  ", " " * 7, " " * 40, "\n", "\n\n", "\r\n", "\t", "a", "B", "Hello", "world", "ing", " the", "'s", "'LL",
    "'re", "'", "1", "23", "4567", "3.14", ".", ",", "!?", "---", "$+<=>^~|`", "_", "\\/", "()", "{}", "é", "É", "ß", "\u017f", "İ",
    "\u212a", "日本語", "、。", "カタカナ", "한국어", "Привет", "שלום", "العربية", "हिन्दी", "ไทย", "Ελληνικά", "٣", "Ⅷ", "²",
    "\u0301", "\u200d", "\u200c", "\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\u00a0", "\u3000", "\x85",
    "\u2028", "\x00", "\x01", "\x1b", "\x7f", "\ufffd", "\ue000", "\ufeff", "▁", "<0x0A>", "Ġ", "#", "##ing", "[", "def f(x):",
)  # fmt: skip
# Only characters of an old Unicode: of newer ones, the tables of llama.cpp and of the libraries know different ones.
characters = st.characters(exclude_categories=["Cs", "Cn"], max_codepoint=0x33FF)
texts = st.lists(st.sampled_from(PIECES) | characters, max_size=25).map("".join)
PYRAMID = "a\nb  \u3000c 12345'LL x!?\r\n\r\n y\x00z日本、かな한 ÀB é"
"""A text in which the rules of every pre-tokeniser cut in some other place."""


def built(path: Path) -> Vocabulary:
    return build_vocabulary(read_facts(path))


@cache
def both(path: Path) -> tuple[Vocabulary, Vocabulary, Model]:
    """Return our vocabulary of a file, llama.cpp's, and the model that llama.cpp's belongs to."""
    model = Model(path, vocabulary_only=True)
    return built(path), model.vocabulary, model


def check(path: Path, text: str) -> None:
    """Compare the tokens of a text in every way of tokenising."""
    ours, theirs, _ = both(path)
    for in_template in (False, True):
        for whole in (False, True):
            arguments = (text, in_template, whole)
            assert ours._tokenize(*arguments) == theirs._tokenize(*arguments), arguments


def check_facts(path: Path) -> None:
    ours, theirs, model = both(path)
    for name in FACTS:
        assert getattr(ours, name) == getattr(theirs, name), name
    assert read_facts(path).metadata_texts == model.metadata


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "m.gguf"
    tiny_models.plain_attention(path)
    return path


@pytest.fixture(scope="module")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SentencePiece vocabulary that puts common words together, and has characters only inside of tokens."""
    chance = random.Random(1)
    words = [text for word in ("▁the", "▁world", "Hello", "ing", "▁Привет", "日本語", "---", "▁é", "4567") for text in
             (word[:end] for end in range(1, len(word) + 1))]  # fmt: skip
    texts = list(
        dict.fromkeys([*words, *"abcdefghijklmnopqrstuvwxyzHB▁'.,!<>|_s/un123", "he", "or", "▁t", "▁▁a", "zß"])
    )
    chance.shuffle(texts)
    path = tmp_path_factory.mktemp("pieces") / "m.gguf"
    return vocabulary_files.pieces(path, texts, [("<|end|>", ADDED), ("<|im_end|>", CONTROL)])


@needs_llama
@pytest.mark.model
class TestDefaultModels:
    """The models that a server serves without any setting."""

    @pytest.mark.parametrize("model_id", ["smollm2-135m-instruct", "all-minilm-l6-v2"])
    def test_the_facts_are_those_of_llama(self, model_id: str) -> None:
        """Pieces of every token, ends, control tokens, names and metadata are equal."""
        check_facts(stored(model_id))

    @given(texts)
    @settings(max_examples=300)
    @example(PYRAMID)
    def test_chat_texts_have_the_tokens_of_llama(self, text: str) -> None:
        """Of every text, with control tokens recognised or not, alone or between the first and last tokens."""
        check(stored("smollm2-135m-instruct"), text)

    @given(texts)
    @settings(max_examples=300)
    @example(PYRAMID)
    def test_embedded_texts_have_the_tokens_of_llama(self, text: str) -> None:
        """The same of a WordPiece vocabulary, which changes letters and drops characters."""
        check(stored("all-minilm-l6-v2"), text)

    def test_long_texts_have_the_tokens_of_llama(self) -> None:
        """A text that is tokenised in portions has the tokens that it has as a whole."""
        chance = random.Random(2)
        text = "".join(chance.choice(PIECES) for _ in range(40_000))
        assert len(text) > 2 * byte_level.PORTION
        check(stored("smollm2-135m-instruct"), text)
        check(stored("all-minilm-l6-v2"), text)

    def test_grammars_see_the_same_tokens(self) -> None:
        """llguidance's view of our vocabulary tokenises as its view of llama.cpp's, and ends texts with the same tokens."""
        ours, theirs, _ = both(stored("smollm2-135m-instruct"))
        tries = [token_trie(ours), token_trie(theirs)]
        assert tries[0].eos_tokens == tries[1].eos_tokens
        for text in ('{"name": "Ada", "born": 1815}\n', "日本語 \U0001f600", "<|im_end|>", PYRAMID):
            assert tries[0].tokenize_str(text) == tries[1].tokenize_str(text)
        specials = [[trie.is_special_token(token) for token in range(ours.size)] for trie in tries]
        assert specials[0] == specials[1]

    def test_grammars_allow_and_force_the_same_tokens(self) -> None:
        """Along a whole text, with ends, special tokens and forced text in the grammar."""
        ours, theirs, _ = both(stored("smollm2-135m-instruct"))
        grammar = 'start: "name: " /[A-Za-z é]+/ "; born: " /[0-9]+/ <|im_end|>? "\\n"'
        states = [GrammarCompiler(vocabulary).compile(grammar) for vocabulary in (ours, theirs)]
        forced = [state.take_forced() for state in states]
        assert forced[0] == forced[1]
        assert forced[0]
        for token in ours.tokenize("name: Ada Lé; born: 1815\n")[len(forced[0]) :]:
            masks = [state.mask() for state in states]
            assert (masks[0] == masks[1]).all()
            assert masks[0][token]
            for state in states:
                state.accept(token)
        assert [state.is_complete for state in states] == [True, True]


@needs_llama
@given(texts)
@example(PYRAMID)
def test_the_tiny_models_tokenise_as_llama_does(tiny: Path, text: str) -> None:
    """A vocabulary of all single bytes and one merge."""
    check(tiny, text)


@needs_llama
@given(texts)
@settings(max_examples=300)
@example(" " * 40 + "the" + " " * 17)
def test_sentences_have_the_tokens_of_llama(sentences: Path, text: str) -> None:
    """SentencePiece: scores decide, runs of spaces grow from the left, unknown characters are written in bytes."""
    check(sentences, text)


@needs_llama
def test_the_facts_of_sentencepiece_are_those_of_llama(sentences: Path, tmp_path: Path) -> None:
    """Also where the file asks for no space before a text, and for a last token."""
    check_facts(sentences)
    other = vocabulary_files.pieces(
        tmp_path / "m.gguf", [*"▁ab", "▁a", "ab"], add_space_prefix=False, add_bos_token=False, add_eos_token=True
    )
    check_facts(other)
    for text in ("", "ab", " ab<s>ab", "x▁a"):
        check(other, text)


ALPHABET = "aAsSlLeEtT1 \n\r\t'.,!$-<_/é日本、かÀ٣\u0301\u3000\x85\U0001f600"
letters = st.text(st.sampled_from(ALPHABET + "\x00\x01"), max_size=30)


@pytest.fixture(scope="module")
def pair_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that gives the file of a vocabulary with one pre-tokeniser."""
    folder = tmp_path_factory.mktemp("pairs")
    return cache(lambda pre: vocabulary_files.byte_pairs(folder / f"{pre}.gguf", pre, ALPHABET, [("<|x|>", CONTROL)]))


@needs_llama
@pytest.mark.parametrize("pre", KNOWN)
def test_every_pretokeniser_cuts_as_llama_does(pair_file: Callable[[str], Path], pre: str) -> None:
    """With a vocabulary that merges any two bytes of a word, tokens differ as soon as one word does."""
    path = pair_file(pre)
    check_facts(path)

    @given(letters)
    @settings(max_examples=60)
    @example(PYRAMID)
    @example("aA Aa aAA's\u0301 a\u0301b -<a \U0001f600a\r\n\r\na  \n a 1234 a1 \u3000<\u3000\u3000a")
    def cuts_alike(text: str) -> None:
        check(path, text)

    cuts_alike()
    both.cache_clear()


ROLES = {
    "ends by text": [("<|im_end|>", NORMAL), ("<|endoftext|>", CONTROL), ("</s>", NORMAL), ("[EOS]", ADDED)],
    "harmony": [(text, CONTROL) for text in ("<|return|>", "<|call|>", "<|end|>", "<|start|>", "<|channel|>")],
    "solar": [(text, CONTROL) for text in ("<|calls|>", "<|flush|>", "<|end|>", "<|message|>")],
    "an ordinary </s>": [("</s>", NORMAL), ("<|tool_response>", CONTROL), ("<turn|>", NORMAL)],
    "filling in": [(text, NORMAL) for text in ("<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<fim_pad>", "<|file_sep|>")],
    "repositories": [("<reponame>", ADDED), ("<PRE>", CONTROL), ("<SUF>", CONTROL), ("<MID>", CONTROL), ("[PAD]", NORMAL)],
    "unusual kinds": [("<a>", 5), ("<b>", 0), ("<c>", 2), ("<0x41>", 6), ("", 1), ("naïve 日本", 1)],
}  # fmt: skip


@needs_llama
@pytest.mark.parametrize("role", ROLES)
def test_roles_are_found_as_llama_finds_them(tmp_path: Path, role: str) -> None:
    """Which tokens end a text, are control tokens or fill in the middle, where the file does not say."""
    path = vocabulary_files.byte_pairs(tmp_path / "m.gguf", "gpt-2", "ab", ROLES[role])
    check_facts(path)
    for text, _ in ROLES[role]:
        check(path, f"a{text}b {text}{text}")


@needs_llama
@pytest.mark.parametrize(
    "facts",
    [
        {"bos_token_id": 1, "eos_token_id": 0, "add_bos_token": True, "add_eos_token": True},
        {"bos_token_id": 99999, "eos_token_id": 1, "eot_token_id": 2, "eom_token_id": 3},
        {"seperator_token_id": 1, "add_sep_token": True, "eos_token_id": 0, "add_eos_token": True},
        {"seperator_token_id": 1, "add_sep_token": True},
        {"fim_pre_token_id": 1, "suffix_token_id": 2, "middle_token_id": 3, "fim_pad_token_id": 4},
    ],
)
def test_roles_that_the_file_names(tmp_path: Path, facts: dict[str, Any]) -> None:
    """A token of a role counts if the vocabulary has it."""
    path = vocabulary_files.byte_pairs(
        tmp_path / "m.gguf", "llama-bpe", "ab", [("<x>", CONTROL), ("<y>", ADDED)], **facts
    )
    check_facts(path)
    for text in ("", "ab", "<x>a<y>"):
        check(path, text)


@needs_llama
def test_special_tokens_that_take_spaces_away(tmp_path: Path) -> None:
    """Phi 3's take the spaces behind them; longer tokens are found before shorter ones, wherever they stand."""
    special = [("<|end|>", CONTROL), ("<|endoftext|>", CONTROL), ("end|>x", ADDED), ("<|e", ADDED)]
    path = vocabulary_files.pieces(tmp_path / "m.gguf", [*"▁abx", "▁a"], special, name="Phi-3 mini")
    check_facts(path)
    for text in ("a <|end|> \n b", "<|end|>x<|endoftext|>  a", "<|e a<s> b</s> ", "<|end|>  "):
        check(path, text)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: vocabulary_files.byte_pairs(path, "kimi-k2", "ab"), "'kimi-k2'"),
        (lambda path: vocabulary_files.write(path, "t5", [("a", NORMAL)]), "'t5'"),
        (lambda path: vocabulary_files.write(path, "gpt2", [("a", NORMAL), ("a", NORMAL)]), "same text"),
        (lambda path: vocabulary_files.write(path, "gpt2", [("a", NORMAL)], merges=["a b"]), "merges do not fit"),
        (lambda path: vocabulary_files.write(path, "llama", [("a", NORMAL)]), "single bytes"),
        (lambda path: vocabulary_files.write(path, "gpt2", [("a", NORMAL)], scores=[], merges=["ab"], pre="x"), "'x'"),
    ],
)
def test_unknown_tokenizers_are_refused_by_name(tmp_path: Path, make: Callable[[Path], Path], reason: str) -> None:
    """A vocabulary that cannot be built exactly is not built; the message says what is unknown."""
    path = make(tmp_path / "m.gguf")
    with pytest.raises(UnknownTokenizerError, match=reason):
        built(path)


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    """With what is wrong with it."""
    path = tmp_path / "m.gguf"
    path.write_bytes(json.dumps({"not": "a model"}).encode())
    with pytest.raises(FileError, match="not a GGUF file"):
        read_facts(path)
