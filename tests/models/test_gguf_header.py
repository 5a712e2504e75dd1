import struct
from pathlib import Path

import gguf
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.models.tiny import text, tiny_gguf

from antiphon.models import CorruptModel, GGUFHeader, read_header
from antiphon.models.gguf_header import _BLOCKS

WHOLE = tiny_gguf(context_length=2048, pooling_type=0)


def header_of(folder: Path, data: bytes) -> GGUFHeader:
    path = folder / "model.gguf"
    path.write_bytes(data)
    return read_header(path)


def test_a_header_tells_what_the_file_is(tmp_path: Path) -> None:
    """Scalars and texts are there, arrays by their length."""
    header = header_of(tmp_path, WHOLE)
    assert (header.version, header.architecture, header.num_tensors) == (3, "llama", 1)
    assert header.of_architecture("context_length") == 2048
    assert header.metadata["tokenizer.ggml.tokens[]"] == 2
    assert not header.is_embedding


def test_pooling_makes_an_embedding_model(tmp_path: Path) -> None:
    """A file that says how to pool is made for embeddings."""
    assert header_of(tmp_path, tiny_gguf("bert", pooling_type=1)).is_embedding


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a GGUF file"),
        (b"<html>Log in</html>", "but a web page"),
        (b"PK\x03\x04" + b"\0" * 60, "not a GGUF file"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1 is not supported"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 1 << 60), "announces 1152921504606846976 entries"),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("general.alignment") + struct.pack("<I", 8) + text("x"),
            "alignment is 'x'",
        ),
        (WHOLE[:-1], "truncated: the tensor 'token_embd.weight'"),
    ],
)
def test_what_is_no_gguf_is_refused_by_name(tmp_path: Path, data: bytes, reason: str) -> None:
    """The error names the file, what is wrong, and what to do."""
    with pytest.raises(CorruptModel, match=reason) as caught:
        header_of(tmp_path, data)
    assert str(tmp_path / "model.gguf") in str(caught.value)
    assert caught.value.hint


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    """Wherever a file was cut off, it is refused."""
    for length in range(len(WHOLE)):
        with pytest.raises(CorruptModel):
            header_of(tmp_path, WHOLE[:length])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(st.integers(0, len(WHOLE) - 257), st.binary(min_size=1, max_size=12))
def test_damage_is_read_or_refused_but_never_crashes(tmp_path: Path, position: int, garbage: bytes) -> None:
    """Any bytes in the header end at once: as ``CorruptModel``, or as a header with exactly what the bytes say."""
    data = bytearray(WHOLE)
    data[position : position + len(garbage)] = garbage
    try:
        header = header_of(tmp_path, bytes(data))
    except CorruptModel:
        return
    version, num_tensors, num_entries = struct.unpack_from("<IQQ", data, 4)
    assert (header.version, header.num_tensors) == (version, num_tensors)
    # Two entries may have got the same name.
    assert 0 < len(header.metadata) <= num_entries
    texts = [value for value in header.metadata.values() if isinstance(value, str)]
    for said in (*texts, *(name.removesuffix("[]") for name in header.metadata)):
        # Bytes that are not UTF-8 are shown in another form.
        assert said.encode(errors="surrogateescape") in data or not garbage.isascii()


def test_block_sizes_are_those_of_the_reference() -> None:
    """The table of tensor types agrees with the gguf package."""
    sizes = {int(kind): size for kind, size in gguf.GGML_QUANT_SIZES.items()}
    assert {kind: sizes[kind] for kind in _BLOCKS if kind in sizes} == {k: v for k, v in _BLOCKS.items() if k in sizes}


@pytest.mark.parametrize("name", ["Größe".encode("latin-1"), b"\xff\xfe", b"caf\xe9 \x80"])
def test_a_text_that_is_not_utf8_does_not_stop_a_file(tmp_path: Path, name: bytes) -> None:
    """Names of models were written in Latin-1 by some tools; only people read them."""
    raw = struct.pack("<Q", len(name)) + name
    key = text("general.name") + struct.pack("<I", 8) + raw
    data = tiny_gguf()
    count = struct.unpack_from("<Q", data, 16)[0]
    head = data[:16] + struct.pack("<Q", count + 1) + key + data[24:]
    path = tmp_path / "named.gguf"
    path.write_bytes(head + bytes(64))
    header = read_header(path)
    assert header.architecture == "llama"
    assert "\ufffd" in str(header.metadata["general.name"])
