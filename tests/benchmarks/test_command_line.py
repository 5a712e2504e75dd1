"""``python -m benchmarks`` as it is called: what cannot be measured is said, and what was measured is kept."""

import json
from pathlib import Path

import pytest
from benchmarks.contenders import LlamaCppPython
from benchmarks.measuring import Sample

from benchmarks import __main__ as bench


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["bench", *words])
    monkeypatch.setattr("signal.signal", lambda *_: None)
    return bench.main()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rounds", "0"], "must be at least 1, not 0"),
        (["--threads", "0"], "must be at least 1, not 0"),
        (["--model", "none.gguf"], "there is no file 'none.gguf'"),
    ],
)
def test_nonsense_is_refused(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before a server is started."""
    with pytest.raises(SystemExit):
        call(monkeypatch, *words)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["--soak", "5"]])
def test_only_what_is_not_there(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that is asked for alone and is not installed leaves nothing to do."""
    options = ["--contender", "vllm", "--vllm-python", "/bin/true", "--out", str(tmp_path)]
    with pytest.raises(SystemExit, match="Nothing is there to measure"):
        call(monkeypatch, *options, *words)


def test_what_was_measured_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when a server fails after hours of it."""

    async def fail(_present: object, _options: object, samples: list[Sample], _footprints: object) -> None:
        samples.append(Sample("short", "antiphon", 0, {}, 0.0, disturbed=False))
        raise RuntimeError("it did not come up")

    monkeypatch.setattr(bench, "_run", fail)
    with pytest.raises(RuntimeError, match="did not come up"):
        call(monkeypatch, "--contender", "antiphon", "--out", str(tmp_path))
    (written,) = tmp_path.glob("*.json")
    assert len(json.loads(written.read_text())["samples"]) == 1


def test_who_only_chats_is_not_asked_to_embed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The workload is passed over; what the others measured is not lost over it."""
    monkeypatch.setattr(LlamaCppPython, "missing", lambda _: None)
    assert call(monkeypatch, "--contender", "llama-cpp-python", "--only", "embeddings", "--out", str(tmp_path)) == 1
    (written,) = tmp_path.glob("*.json")
    assert json.loads(written.read_text())["samples"] == []
