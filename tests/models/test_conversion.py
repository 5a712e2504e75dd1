import json
from pathlib import Path

import gguf
import numpy as np
import pytest
from tests.engine.runtimes import load_encoder, sized
from tests.models.bert_reference import embed
from tests.models.encoder import open_encoder
from tests.models.tiny import safetensors, tiny_bert

from antiphon.models import Catalogue, ConversionFailed, CorruptModel, ModelStore
from antiphon.models.conversion import convert_bert
from antiphon.models.conversion.safetensors import read_safetensors


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for name, data in tiny_bert().items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    return tmp_path / "model.safetensors"


def converted(source: Path) -> Path:
    target = source.with_name("out.gguf")
    convert_bert(source, target, name="tiny", progress=lambda done, total: None)
    return target


def test_a_converted_encoder_embeds_like_its_weights(source: Path) -> None:
    """llama.cpp on the GGUF and numpy on the original weights agree, for texts of every length that fits."""
    weights = {name: np.asarray(data) for name, data in read_safetensors(source).items()}
    with open_encoder(converted(source)) as encoder:
        for ids in ([2, 3], [2, 5, 6, 3], [2, 7, 8, 5, 6, 6, 1, 3], [2, *range(5, 9), *range(5, 9), 3]):
            assert encoder.embed(ids) @ embed(weights, ids, num_heads=2) > 0.9999


def test_openvino_embeds_like_the_weights(source: Path) -> None:
    """The graph that is built of the GGUF and numpy on the original weights agree, texts of one batch among one another too."""
    weights = {name: np.asarray(data) for name, data in read_safetensors(source).items()}
    model = load_encoder("openvino", converted(source))
    texts = [[2, 3], [2, 5, 6, 3], [2, 7, 8, 5, 6, 6, 1, 3], [2, *range(5, 9), *range(5, 9), 3]]
    context = model.context(sized(embeddings=True))
    for slot, ids in enumerate(texts):
        context.batch.add(slot, 0, ids, len(ids))
    context.decode()
    for row, ids in zip(context.embeddings(len(texts)), texts, strict=True):
        assert row / np.linalg.norm(row) @ embed(weights, ids, num_heads=2) > 1 - 1e-6


def test_word_pieces_are_found_as_the_vocabulary_has_them(source: Path) -> None:
    """Beginnings and continuations of words, capitals, accents and the frame of a sentence."""
    with open_encoder(converted(source)) as encoder:
        assert encoder.tokens("Plàying, HELLO!") == [2, 5, 6, 1, 7, 8, 3]
        assert encoder.tokens("") == [2, 3]


def test_special_words_in_a_text_stay_text(source: Path) -> None:
    """Whoever writes [SEP] into a text does not end the sentence with it."""
    with open_encoder(converted(source)) as encoder:
        assert 3 not in encoder.tokens("hello [SEP] hello")[:-1]


def test_metadata_and_types(source: Path) -> None:
    """Matrices are f16, what is added stays f32, the pooler is left out, all of it documented in the file."""
    reader = gguf.GGUFReader(converted(source))
    types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert types["token_embd.weight"] == types["blk.0.ffn_up.weight"] == "F16"
    assert types["position_embd.weight"] == types["blk.0.attn_q.bias"] == types["token_embd_norm.weight"] == "F32"
    assert not any("pooler" in name for name in types)
    assert reader.fields["bert.pooling_type"].contents() == gguf.PoolingType.MEAN
    assert reader.fields["bert.attention.causal"].contents() is False
    assert reader.fields["tokenizer.ggml.tokens"].contents()[5:7] == ["▁play", "ing"]


def test_old_names_of_layer_norms_are_understood(source: Path) -> None:
    """Checkpoints from TensorFlow days say gamma and beta, and prefix everything with bert."""
    renamed = {
        f"bert.{name.replace('LayerNorm.weight', 'LayerNorm.gamma').replace('LayerNorm.bias', 'LayerNorm.beta')}": data
        for name, data in read_safetensors(source).items()
    }
    expected = {tensor.name: tensor.data.tobytes() for tensor in gguf.GGUFReader(converted(source)).tensors}
    source.write_bytes(safetensors({name: np.array(data) for name, data in renamed.items()}))
    assert {tensor.name: tensor.data.tobytes() for tensor in gguf.GGUFReader(converted(source)).tensors} == expected


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        ("config.json", {"model_type": "roberta"}, "model_type is 'roberta'"),
        ("config.json", {"hidden_act": "relu"}, "hidden_act"),
        ("config.json", {"vocab_size": 10}, "has 9 words"),
        ("config.json", {"hidden_size": "x"}, "cannot be used"),
        ("tokenizer_config.json", {"tokenize_chinese_chars": False}, "tokenize_chinese_chars"),
        ("tokenizer_config.json", {"mask_token": "<mask>"}, "lacks <mask>"),
        ("1_Pooling/config.json", {"pooling_mode_mean_tokens": False}, "pooling other than"),
    ],
)
def test_what_llama_cpp_could_not_run_is_refused(source: Path, file: str, change: dict[str, object], says: str) -> None:
    """A model that would give other vectors than its authors' is not converted at all."""
    path = source.parent / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ConversionFailed, match=says):
        converted(source)


def test_a_foreign_tensor_is_refused(source: Path) -> None:
    """Weights that no one knows would be left out: that is said."""
    tensors = {name: np.array(data) for name, data in read_safetensors(source).items()}
    source.write_bytes(safetensors(tensors | {"adapter.weight": np.zeros((2, 2), "<f4")}))
    with pytest.raises(ConversionFailed, match=r"'adapter\.weight'"):
        converted(source)


def test_truncated_safetensors_are_refused(source: Path) -> None:
    """Wherever the weights were cut off, reading them says so."""
    whole = source.read_bytes()
    for length in (0, 7, 8, 100, len(whole) - 1):
        source.write_bytes(whole[:length])
        with pytest.raises(CorruptModel, match=r"truncated|safetensors"):
            read_safetensors(source)


TOKENS = {
    "Héllo WÖRLD café naïve": [7592, 2088, 7668, 15743],
    "naïve cafe\u0301 combining": [15743, 7668, 11566],
    "你好世界 hello中文": [100, 100, 1745, 100, 7592, 1746, 1861],
    "don't can't it's": [2123, 1005, 1056, 2064, 1005, 1056, 2009, 1005, 1055],
    "“quotes” – dash — em… ": [1523, 16614, 1524, 1516, 11454, 1517, 7861, 1529],  # noqa: RUF001 - as people write
    "$100 £20 €5 +1=2 <tag>": [1002, 2531, 21853, 2692, 1574, 2629, 1009, 1015, 1027, 1016, 1026, 6415, 1028],
    "tab\tnew\nline\r\n": [21628, 2047, 2240],
    "🙂 emoji": [100, 7861, 29147, 2072],
}
"""Ids that the original tokenizer gives, without [CLS] and [SEP]."""

COSINES = {
    ("machine learning", "deep learning"): 0.68869,
    ("machine learning", "cooking recipes"): 0.23532,
    ("A cat sits on the mat.", "A kitten rests on a rug."): 0.66539,
    ("The bank raised its interest rates.", "They walked along the river bank."): 0.38882,
    ("How do I reset my password?", "I forgot my login credentials and need to recover my account."): 0.67385,
}
"""Cosine similarities that the original fp32 weights give."""


@pytest.mark.model
def test_the_default_encoder_tokenizes_like_the_original() -> None:
    """Capitals, accents, CJK, punctuation and spaces as BERT's own tokenizer has them."""
    with open_encoder(ModelStore().ensure(Catalogue.default().default_of("embedding"))) as encoder:
        assert {text: encoder.tokens(text) for text in TOKENS} == {t: [101, *ids, 102] for t, ids in TOKENS.items()}


@pytest.mark.model
def test_the_default_encoder_is_as_good_as_the_original() -> None:
    """Similarities of sentences are those of the fp32 weights, within what f16 costs."""
    with open_encoder(ModelStore().ensure(Catalogue.default().default_of("embedding"))) as encoder:
        for (one, other), expected in COSINES.items():
            similarity = encoder.embed(encoder.tokens(one)) @ encoder.embed(encoder.tokens(other))
            assert similarity == pytest.approx(expected, abs=5e-4)
