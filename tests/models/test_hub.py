from collections.abc import Generator
from pathlib import Path

import pytest
from tests.models.hub_double import Hub, running_hub
from tests.models.tiny import tiny_bert, tiny_gguf

from antiphon.models import CorruptModel, ModelEntry, ModelStore, ProgressEvent, SourceUnavailable, StoreFull
from antiphon.models.sources import http

MODEL = tiny_gguf() + bytes(range(256)) * 1600
ENTRY = ModelEntry(id="m", kind="chat", source="hf:org/repo/m.gguf")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Generator[Hub]:
    monkeypatch.setattr(http.time, "sleep", lambda seconds: None)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    with running_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url + "/")
        hub.files["m.gguf"] = MODEL
        yield hub


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "home")


def test_a_file_is_fetched_over_the_redirect(hub: Hub, store: ModelStore) -> None:
    """The bytes come from where the hub points, and are checked against the hash it announced."""
    events: list[ProgressEvent] = []
    path = store.ensure(ENTRY, events.append)
    assert path.read_bytes() == MODEL
    downloads = [e for e in events if e.phase == "download"]
    assert downloads[-1].done_bytes == downloads[-1].total_bytes == len(MODEL)
    requests = len(hub.seen)
    assert store.ensure(ENTRY) == path
    assert len(hub.seen) == requests


def test_the_token_stays_with_the_hub(hub: Hub, store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """HF_TOKEN goes to the hub and not to the storage that it redirects to."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    store.ensure(ENTRY)
    for _, path, _, authorization in hub.seen:
        assert authorization == (None if path.startswith("/storage/") else "Bearer hf_secret")


def test_the_token_of_a_login_is_used(hub: Hub, store: ModelStore, tmp_path: Path) -> None:
    """Whoever is logged in needs no variable."""
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_text("hf_stored\n")
    store.ensure(ENTRY)
    assert hub.seen[0][3] == "Bearer hf_stored"


def test_a_broken_connection_is_taken_up_where_it_broke(hub: Hub, store: ModelStore) -> None:
    """Each attempt asks for what is still missing."""
    hub.cut_after = [100_000, 70_000]
    assert store.ensure(ENTRY).read_bytes() == MODEL
    assert hub.ranges() == [None, "bytes=100000-", "bytes=170000-"]


def test_an_interrupted_fetch_goes_on_in_the_next_call(hub: Hub, store: ModelStore) -> None:
    """Ctrl-C in the middle loses nothing; the store shows no model until it is whole."""

    def interrupt(event: ProgressEvent) -> None:
        if event.done_bytes >= 100_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.ensure(ENTRY, interrupt)
    assert store.list() == ()
    assert store.ensure(ENTRY).read_bytes() == MODEL
    assert hub.ranges()[1].startswith("bytes=")


def test_a_changed_file_is_started_over(hub: Hub, store: ModelStore) -> None:
    """A part of an older upload is not glued to a newer one."""
    hub.cut_after = [900, 0, 0, 0, 0, 0]
    with pytest.raises(SourceUnavailable, match="broke off"):
        store.ensure(ENTRY)
    hub.files["m.gguf"] = newer = tiny_gguf() + b"newer" * 400
    hub.cut_after = []
    assert store.ensure(ENTRY).read_bytes() == newer


def test_a_server_without_ranges_is_started_over(hub: Hub, store: ModelStore) -> None:
    """A mirror that ignores Range sends everything again, and the file is still right."""
    hub.cut_after = [100_000]
    hub.ignores_ranges = True
    assert store.ensure(ENTRY).read_bytes() == MODEL


def test_overload_is_waited_out(hub: Hub, store: ModelStore) -> None:
    """429 and 503 are tried again."""
    hub.storage_statuses = [429, 503, 200]
    assert store.ensure(ENTRY).read_bytes() == MODEL


def test_a_hub_that_keeps_failing_is_given_up_and_the_part_kept(hub: Hub, store: ModelStore) -> None:
    """The error says that the same command goes on."""
    hub.cut_after = [100_000, 0, 0, 0, 0, 0]
    with pytest.raises(SourceUnavailable, match=r"m\.gguf broke off") as caught:
        store.ensure(ENTRY)
    assert "goes on where it stopped" in caught.value.hint
    hub.cut_after = []
    store.ensure(ENTRY)
    assert hub.ranges()[-1] == "bytes=100000-"


def test_wrong_bytes_never_reach_the_store(hub: Hub, store: ModelStore) -> None:
    """A hash that does not match removes the file, names it, and leaves no model."""
    hub.wrong_etag = True
    with pytest.raises(CorruptModel, match=r"sha256 .* expected 0000") as caught:
        store.ensure(ENTRY)
    assert "m.gguf" in str(caught.value)
    assert store.list() == ()
    hub.wrong_etag = False
    assert store.ensure(ENTRY).read_bytes() == MODEL


@pytest.mark.parametrize(
    ("refusal", "says", "hint"),
    [
        ((401, "RepoNotFound"), "cannot be downloaded", "HF_TOKEN"),
        ((403, "GatedRepo"), "is gated", "Accept its terms"),
        ((404, "EntryNotFound"), "has no file 'm.gguf'", "tree/main"),
        ((404, "RevisionNotFound"), "no revision 'main'", "newest"),
        ((404, ""), "cannot be downloaded", "check the name"),
        ((500, ""), "HTTP 500", "later"),
    ],
)
def test_a_refusal_says_what_to_do(hub: Hub, store: ModelStore, refusal: tuple[int, str], says: str, hint: str) -> None:
    """Each of the hub's errors becomes one that its reader can act on."""
    hub.refuse = refusal
    with pytest.raises(SourceUnavailable, match=says) as caught:
        store.ensure(ENTRY)
    assert hint in caught.value.hint


def test_no_hub_at_all_is_said(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address where nobody answers is a matter of the network."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(SourceUnavailable, match="cannot be reached"):
        store.ensure(ENTRY)


def test_all_shards_are_fetched(hub: Hub, store: ModelStore) -> None:
    """A split model is complete only with every part."""
    hub.files |= {f"q/m-0000{i}-of-00002.gguf": tiny_gguf(part=i) for i in (1, 2)}
    path = store.ensure(ModelEntry(id="split", kind="chat", source="hf:org/repo/q/m-00001-of-00002.gguf"))
    assert path.name == "m-00001-of-00002.gguf"
    assert sorted(f.name for f in path.parent.glob("*.gguf")) == [f"m-0000{i}-of-00002.gguf" for i in (1, 2)]


def test_a_sentence_encoder_is_converted(hub: Hub, store: ModelStore) -> None:
    """Safetensors come with what belongs to them; small files are checked by their git hash."""
    files = tiny_bert()
    hub.files["model.safetensors"] = files.pop("model.safetensors")
    hub.small_files = files
    path = store.ensure(ModelEntry(id="enc", kind="chat", source="hf:org/repo/model.safetensors"))
    assert path.name == "enc-f16.gguf"
    assert store.find("enc").entry.kind == "embedding"


def test_a_full_disk_is_noticed_before_the_download(
    hub: Hub, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot fit is not begun."""
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(StoreFull, match="are needed"):
        store.ensure(ENTRY)
    assert hub.ranges() == []


PLACE = "/org/repo/resolve/main/m.gguf"


@pytest.mark.parametrize("is_relative", [True, False])
def test_a_renamed_repository_is_followed(hub: Hub, store: ModelStore, is_relative: bool) -> None:
    """The hub's redirect to the new name works with a relative location as with a whole address."""
    hub.repo = "new/name"
    hub.redirects[PLACE] = ("" if is_relative else hub.url) + "/new/name/resolve/main/m.gguf"
    assert store.ensure(ENTRY).read_bytes() == MODEL


@pytest.mark.parametrize("hops", [["{elsewhere}/one"], ["/one", "{elsewhere}/two"], ["{elsewhere}/one", "{hub}/two"]])
def test_the_token_follows_no_redirect_to_another_origin(
    hub: Hub, store: ModelStore, monkeypatch: pytest.MonkeyPatch, hops: list[str]
) -> None:
    """HF_TOKEN is for the first origin: not for another, nor for what another redirects to."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.repo = "new/name"
    path = PLACE
    left: set[str] = set()
    for hop in [*hops, "{elsewhere}/new/name/resolve/main/m.gguf"]:
        target = hop.format(elsewhere=hub.storage_url, hub=hub.url)
        hub.redirects[path] = target
        path = target.removeprefix(hub.storage_url).removeprefix(hub.url)
        if left or target.startswith(hub.storage_url):
            left.add(path)
    store.ensure(ENTRY)
    assert {method for method, path, _, _ in hub.seen if path in left} == {"HEAD", "GET"}
    for _, path, _, authorization in hub.seen:
        assert authorization == (None if path in left or path.startswith("/storage/") else "Bearer hf_secret")


def test_redirects_in_a_circle_end(hub: Hub, store: ModelStore) -> None:
    """A hub that redirects for ever is reported, after as many requests as any download may need."""
    hub.redirects[PLACE] = PLACE
    with pytest.raises(SourceUnavailable, match="cannot be reached"):
        store.ensure(ENTRY)
    assert len(hub.seen) == http.MAX_REDIRECTS + 1


@pytest.mark.parametrize("location", ["ftp://elsewhere/m.gguf", "http://[", "http://localhost:1:2/m.gguf", ""])
def test_a_redirect_that_leads_nowhere_is_reported(hub: Hub, store: ModelStore, location: str) -> None:
    """An address that is not one of HTTP is a failure of the source, for the description and for the bytes."""
    hub.redirects[PLACE] = location
    with pytest.raises(SourceUnavailable):
        store.ensure(ENTRY)
    remote = http.Remote(url=hub.url + PLACE, etag="", size=None)
    with http.client({}) as client, pytest.raises(SourceUnavailable):
        http.download(client, remote, store.home / "m.gguf", lambda event: None)


def test_an_empty_file_is_named_as_what_it_is(hub: Hub, store: ModelStore) -> None:
    """A file of no bytes is fetched, and then is not a model."""
    hub.files["m.gguf"] = b""
    with pytest.raises(CorruptModel, match="GGUF"):
        store.ensure(ENTRY)
