"""The well-known models: short names, where they come from, and which of them fit."""

import json
from pathlib import Path

import pytest
from tests.models.hub_double import running_hub
from tests.models.tiny import tiny_gguf

from antiphon.cli.root import main
from antiphon.models import Catalogue, CorruptModel, ModelStore
from antiphon.models.known import KNOWN, KnownModel
from antiphon.models.sources import http
from antiphon.models.suggest import best, measure_bandwidth, suggest

GB = 1_000_000_000


def find(name: str) -> KnownModel:
    return next(model for model in KNOWN if model.entry.id == name)


def test_each_name_becomes_the_default_by_one_word() -> None:
    """`--model NAME` is all that a known model needs: it then answers OpenAI's names, if it is of a kind that OpenAI has."""
    for model in KNOWN:
        kind = model.entry.kind
        catalogue = Catalogue.default().add(model.entry.id, kind=kind, default=True)
        if kind == "reranker":
            assert catalogue.with_reranker(model.entry.id) == (catalogue, model.entry.id)
        else:
            assert catalogue.default_of(kind) == model.entry
        assert model.entry.source.startswith("hf:")
        assert model.entry.license
    assert len({model.entry.id for model in KNOWN}) == len(KNOWN)


def test_a_known_model_is_fetched_and_checked_against_the_hubs_hash(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The hub's own sha256 decides: a file that differs is refused, the right one is stored under its short name."""
    monkeypatch.setattr(http.time, "sleep", lambda seconds: None)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    model, entry = tiny_gguf() + bytes(1000), find("qwen3-4b").entry
    with running_hub() as hub:
        hub.repo = "Qwen/Qwen3-4B-GGUF"
        hub.files["Qwen3-4B-Q4_K_M.gguf"] = model
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        store = ModelStore(tmp_path / "home")
        hub.wrong_etag = True
        with pytest.raises(CorruptModel):
            store.ensure(entry)
        hub.wrong_etag = False
        assert store.ensure(entry).read_bytes() == model
        assert store.find("qwen3-4b") is not None


def test_what_fits_follows_from_memory_and_context() -> None:
    """A longer context needs more memory; what does not fit is never the suggestion."""
    short = suggest(KNOWN, memory_bytes=6 * GB, bandwidth=20e9, context_size=4096)
    long = suggest(KNOWN, memory_bytes=6 * GB, bandwidth=20e9, context_size=32768)
    assert [s.model for s in short] == list(KNOWN)
    for a, b in zip(short, long, strict=True):
        assert a.memory_bytes <= b.memory_bytes
        assert a.fits == (a.memory_bytes <= 6 * GB)
        assert a.memory_bytes > a.model.file_bytes
    assert {s.model.entry.id for s in short if s.fits} >= {s.model.entry.id for s in long if s.fits}
    chosen = best(short)
    assert chosen is not None
    assert chosen.fits
    assert chosen.model.entry.kind == "chat"


@pytest.mark.parametrize(
    ("memory_gb", "bandwidth_gbs", "expected"),
    [(1, 50, None), (2.2, 50, "gemma-3-1b"), (8, 50, "qwen3-8b"), (8, 20, "qwen3-4b"), (32, 50, "gpt-oss-20b"), (32, 1, None)],
)  # fmt: skip
def test_the_suggestion_is_the_largest_that_fits_and_is_quick_enough(
    memory_gb: float, bandwidth_gbs: float, expected: str | None
) -> None:
    """Memory rules out the large, bandwidth the slow; a mixture of experts reads only its active part."""
    found = suggest(KNOWN, memory_bytes=round(memory_gb * GB), bandwidth=bandwidth_gbs * 1e9, context_size=8192)
    chosen = best(found)
    assert (chosen.model.entry.id if chosen else None) == expected


def test_the_command_shows_all_and_says_that_speeds_are_estimates(capsys: pytest.CaptureFixture[str]) -> None:
    """`antiphon models suggest` lists every known model; its JSON has the measured bandwidth."""
    with pytest.raises(SystemExit, match="0"):
        main(["models", "suggest"])
    text = capsys.readouterr().out
    assert all(model.entry.id in text for model in KNOWN)
    assert "estimates" in text
    with pytest.raises(SystemExit, match="0"):
        main(["models", "suggest", "--json"])
    data = json.loads(capsys.readouterr().out)
    assert data["bandwidth_bytes_per_s"] > 0
    assert [row["id"] for row in data["models"]] == [model.entry.id for model in KNOWN]


def test_the_bandwidth_is_positive_for_any_number_of_threads() -> None:
    """One thread reads too."""
    assert measure_bandwidth(threads=1) > 0
