from pathlib import Path

import pytest

from antiphon.models import BadSource
from antiphon.models.sources import looks_like_source, parse_source
from antiphon.models.sources.base import belonging_files
from antiphon.models.sources.hub import HubFile
from antiphon.models.sources.local import LocalFile
from antiphon.models.sources.package import PackageFile

SHA = "a" * 64


@pytest.mark.parametrize(
    "spec",
    [
        "hf:org/repo/file.gguf",
        "hf:org/repo/folder/file.gguf@v1.0",
        f"hf:org/re.po/file.gguf@refs/pr/1#sha256={SHA}",
        "pypi:some-package==1.2.3/path/in/wheel.gguf",
        f"pypi:p==2024.1.post1/m/model.safetensors#sha256={SHA}",
        "/models/file.gguf",
    ],
)
def test_a_spec_reads_back_as_itself(spec: str) -> None:
    """What a source says of itself names the same source."""
    source = parse_source(spec)
    assert source.spec == spec
    assert parse_source(source.spec) == source


def test_each_scheme_has_its_source() -> None:
    """The prefix decides where a model comes from."""
    assert isinstance(parse_source("hf:o/r/f.gguf"), HubFile)
    assert isinstance(parse_source("pypi:p==1/f.gguf"), PackageFile)
    assert parse_source("~/f.gguf") == LocalFile(Path("~/f.gguf").expanduser())


def test_a_pin_is_the_main_files_digest() -> None:
    """The hash in a spec is checked against the file that it names."""
    assert parse_source(f"pypi:p==1/a/b/f.gguf#sha256={SHA}").digests == {"f.gguf": SHA}
    assert parse_source("hf:o/r/f.gguf").digests == {}


@pytest.mark.parametrize(
    "spec",
    [
        "hf:repo/file.gguf",
        "hf:o/r/file.bin",
        "hf:o/r/../../x.gguf",
        "hf:../../x.gguf",
        "hf:../r/x.gguf",
        "hf:o/../x.gguf",
        "hf:./r/x.gguf",
        "hf:o/r/x.gguf@../../main",
        "hf:o/r/x.gguf@a//b",
        "hf:o/r/a\\..\\x.gguf",
        "pypi:package/file.gguf",
        "pypi:package>=1.0/file.gguf",
        "pypi:p==1/file.gguf#sha256=abc",
        "pypi:--index-url=x==1/f.gguf",
        "/models/file.bin",
        "",
    ],
)
def test_nonsense_is_refused_with_the_grammar(spec: str) -> None:
    """What cannot be read is said at once, with what can."""
    with pytest.raises(BadSource) as caught:
        parse_source(spec)
    assert "hf:org/repo/file.gguf" in caught.value.hint


def test_sources_and_names_are_told_apart() -> None:
    """A name of the catalogue is never taken for a file."""
    assert all(map(looks_like_source, ["hf:x", "pypi:x", "./a", "/a", "~/a", "a.gguf"]))
    assert not any(map(looks_like_source, ["gpt-4o", "org/model", "smollm2-135m-instruct"]))


def test_shards_and_tokenizers_belong_to_their_model() -> None:
    """The first shard brings the others; safetensors bring configuration and vocabulary."""
    shards = belonging_files(parse_source("hf:o/r/q/m-00001-of-00003.gguf").file)
    assert [str(f) for f in shards] == [f"q/m-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    assert "x/vocab.txt" in {str(f) for f in belonging_files(parse_source("hf:o/r/x/model.safetensors").file)}
    assert len(belonging_files(parse_source("/a/m.gguf").file)) == 1
