import msgspec
import pytest

from antiphon.models import BadSource, Catalogue, ModelEntry, ModelNotFound

MINE = ModelEntry(id="mine", kind="chat", source="/models/mine.gguf", aliases=("my-chat",))


@pytest.mark.parametrize("name", ["gpt-4o", "gpt-4o-mini"])
def test_openai_chat_names_answer_with_the_chat_default(name: str) -> None:
    """Published code that asks for gpt-4o gets the chat model that comes with Antiphon."""
    resolved = Catalogue.default().resolve(name)
    assert resolved.entry.id == "smollm2-135m-instruct"
    assert resolved.pad_to is None


@pytest.mark.parametrize(
    ("name", "length"),
    [("text-embedding-3-small", 1536), ("text-embedding-3-large", 3072), ("text-embedding-ada-002", 1536)],
)
def test_openai_embedding_names_pad(name: str, length: int) -> None:
    """OpenAI's embedding names answer with the embedding default, padded to the length that stores expect."""
    resolved = Catalogue.default().resolve(name)
    assert resolved.entry.id == "all-minilm-l6-v2"
    assert resolved.pad_to == length


def test_own_id_is_not_padded() -> None:
    """A model asked for by its own name gives its own vectors."""
    assert Catalogue.default().resolve("all-minilm-l6-v2").pad_to is None


def test_a_configured_default_takes_over_the_aliases() -> None:
    """The user's own chat model answers for gpt-4o; the embedding names stay as they were."""
    catalogue = Catalogue.default().add("/models/big.gguf", kind="chat", default=True)
    assert catalogue.resolve("gpt-4o").entry.id == "big"
    assert catalogue.default_of("chat").id == "big"
    assert catalogue.resolve("text-embedding-3-small").entry.id == "all-minilm-l6-v2"


def test_an_entrys_own_alias_wins_over_openais_names() -> None:
    """A user who names a model gpt-4o means it."""
    entry = ModelEntry(id="mine", kind="chat", source="/m.gguf", aliases=("gpt-4o",))
    catalogue = Catalogue.default().with_models([entry])
    assert catalogue.resolve("gpt-4o").entry.id == "mine"
    assert catalogue.resolve("gpt-4o-mini").entry.id == "smollm2-135m-instruct"
    assert [a.model for a in catalogue.aliases if a.name == "gpt-4o"] == ["mine"]


def test_catalogues_are_values() -> None:
    """Adding a model leaves the catalogue it was added to as it was."""
    before = Catalogue.default()
    after = before.with_models([MINE])
    assert after.resolve("my-chat").entry == MINE
    with pytest.raises(ModelNotFound):
        before.resolve("my-chat")


def test_a_later_entry_replaces_one_of_the_same_id() -> None:
    """The user's configuration overrides what is embedded."""
    newer = ModelEntry(id="smollm2-135m-instruct", kind="chat", source="/other.gguf")
    assert Catalogue.default().with_models([newer]).resolve("gpt-4o").entry == newer


def test_an_unknown_name_names_its_neighbours() -> None:
    """A typing error is met with what was probably meant."""
    with pytest.raises(ModelNotFound, match="no model 'gpt4o'") as caught:
        Catalogue.default().resolve("gpt4o")
    assert caught.value.close[0] == "gpt-4o"
    assert "Did you mean 'gpt-4o'" in caught.value.hint
    with pytest.raises(ModelNotFound) as caught:
        Catalogue.default().resolve("Qwen/Qwen3-4B-GGUF")
    assert caught.value.hint.startswith("A file on the Hugging Face hub is written hf:Qwen/Qwen3-4B-GGUF/FILE.gguf")


def test_adding_by_a_known_name_makes_it_the_default_only() -> None:
    """``--model NAME`` with a name of the catalogue adds nothing."""
    catalogue = Catalogue.default().with_models([MINE])
    chosen = catalogue.add("my-chat", kind="chat", default=True)
    assert chosen.entries == catalogue.entries
    assert chosen.resolve("gpt-4o").entry == MINE


def test_a_default_of_the_wrong_kind_is_refused() -> None:
    """An embedding model cannot chat."""
    with pytest.raises(BadSource, match="of the kind embedding"):
        Catalogue.default().with_default("chat", "all-minilm-l6-v2")


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("/models/Qwen3-4B-Q4_K_M.gguf", "Qwen3-4B-Q4_K_M"),
        ("hf:org/repo/sub/file.gguf@v1", "file"),
        ("pypi:pkg==1.0/pkg/encoder/model.safetensors", "encoder"),
        ("./my model.gguf", "my-model"),
    ],
)
def test_names_come_from_files(spec: str, name: str) -> None:
    """A model without a name of its own is called as its file is, or its folder where every file is called model."""
    assert Catalogue.default().add(spec, kind="chat").resolve(name).entry.kind == "chat"


@pytest.mark.parametrize("name", ["", "../up", "a b", "-x", "x" * 201])
def test_names_that_would_be_trouble_are_refused(name: str) -> None:
    """A name becomes a folder and a URL: what cannot be both is no name."""
    with pytest.raises(BadSource, match="letters, digits"):
        ModelEntry(id=name, kind="chat", source="/m.gguf")


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("Mein Modell (v2).gguf", "Mein-Modell-v2"),
        ("Größe [Q4_K_M].gguf", "Große-Q4_K_M".replace("ß", "")),
        ("modèle émis.gguf", "modele-emis"),
        ("模型.gguf", "model"),
        (" .gguf", "model"),
        ("-.gguf", "model"),
        ("a+b=c&d;e'f\"g.gguf", "a-b-c-d-e-f-g"),
        ("x" * 240 + ".gguf", "x" * 100),
        ("folder name/model.gguf", "folder-name"),
        ("qwen2.5-0.5b-instruct-q4_k_m.gguf", "qwen2.5-0.5b-instruct-q4_k_m"),
    ],
)
def test_any_file_name_gives_a_name_for_the_model(file: str, name: str) -> None:
    """Blanks, accents, brackets and other letters: the file is in the catalogue under a name that a request can carry."""
    catalogue = Catalogue.default().add(f"/models/{file}", kind="chat", default=True)
    assert catalogue.resolve("gpt-4o").entry.id == name
    assert catalogue.resolve(name).entry.source == f"/models/{file}"


def test_openais_names_can_be_narrowed() -> None:
    """Only names that match a pattern of the setting are answered; each pattern leads to the default of its kind."""
    catalogue = msgspec.structs.replace(Catalogue.default(), openai_names=("gpt-4o-*", "text-embedding-3-*"))
    names = {alias.name for alias in catalogue.aliases}
    assert names >= {"gpt-4o-mini", "text-embedding-3-small"}
    assert not names & {"gpt-4o", "text-embedding-ada-002"}
    found = {alias.name: alias.model for alias in catalogue.patterns}
    assert found == {"gpt-4o-*": "smollm2-135m-instruct", "text-embedding-3-*": "all-minilm-l6-v2"}
    nothing = msgspec.structs.replace(Catalogue.default(), openai_names=())
    assert not nothing.patterns
