"""What is embedded in the background is held to the limits and the budget of its key, over HTTP with the official client."""

import asyncio
from pathlib import Path

import openai
from tests.server.test_accounts_over_http import new_key
from tests.server.test_vector_stores import backend, settled, upload
from tests.serving import Running, running
from tests.waiting import PATIENCE_S, wait_until

from antiphon.accounts import AccountSettings, KeyBudget, ModelPrice, Principal
from antiphon.accounts.reports import UsageQuery, UsageTotal

MODEL = "vectors"
TPM = 12_000
LONG = "".join(
    f"Sentence {number} says what the keeper saw from the lighthouse.\n\n" for number in range(2000)
).encode()
"""About 30,000 tokens."""


def recorded(up: Running) -> list[UsageTotal]:
    query = UsageQuery(kinds=("embedding",), by=("model",))
    return asyncio.run_coroutine_threadsafe(up.service.accounts.report(query), up.loop).result(PATIENCE_S)


def tokens(up: Running) -> int:
    return sum(total.prompt_tokens for total in recorded(up))


def test_a_file_waits_for_its_keys_limit_and_requests_do_not_wait_for_it(tmp_path: Path) -> None:
    """Half of a minute's tokens are left to requests; a restart loses nothing, and no chunk is embedded twice."""
    with (
        running(backend(), tmp_path / "reference") as up,
        openai.OpenAI(base_url=up.url, api_key="any", max_retries=0) as client,
    ):
        settled(client, client.vector_stores.create(file_ids=[upload(client, "a.txt", LONG)]).id)
        whole = tokens(up)
    assert whole > 2 * TPM
    with (
        running(backend(), tmp_path / "home", accounts=AccountSettings(tpm=TPM)) as up,
        openai.OpenAI(base_url=up.url, api_key="any", max_retries=0) as client,
    ):
        store_id = client.vector_stores.create(file_ids=[upload(client, "a.txt", LONG)]).id
        pauses = up.service.storage.vector_stores.ingestion._pauses
        wait_until(lambda: bool(pauses))
        in_background = tokens(up)
        assert 0 < in_background < whole
        asked = client.embeddings.create(model=MODEL, input="word " * (TPM // 4)).usage.prompt_tokens
        assert client.vector_stores.retrieve(store_id).file_counts.in_progress == 1
        assert sum(total.num_failed for total in recorded(up)) == 0
    with (
        running(backend(), tmp_path / "home") as up,
        openai.OpenAI(base_url=up.url, api_key="any", max_retries=0) as client,
    ):
        before = tokens(up) - asked
        assert settled(client, store_id).file_counts.completed == 1
        assert tokens(up) - asked == whole > before > 0


def test_a_limit_below_one_step_makes_the_steps_smaller(tmp_path: Path) -> None:
    """One chunk at a time, if no more fit; a limit below one chunk fails the file, which could never be embedded."""
    with (
        running(backend(), tmp_path / "small", accounts=AccountSettings(tpm=600)) as up,
        openai.OpenAI(base_url=up.url, api_key="any", max_retries=0) as client,
    ):
        store = client.vector_stores.create(file_ids=[upload(client, "a.txt", LONG[:8000])])
        wait_until(lambda: tokens(up) > 0)
        assert client.vector_stores.retrieve(store.id).file_counts.failed == 0
        assert tokens(up) < 600
    with (
        running(backend(), tmp_path / "smallest", accounts=AccountSettings(tpm=50)) as up,
        openai.OpenAI(base_url=up.url, api_key="any", max_retries=0) as client,
    ):
        store = client.vector_stores.create(file_ids=[upload(client, "a.txt", LONG[:8000])])
        assert settled(client, store.id).file_counts.failed == 1
        [file] = client.vector_stores.files.list(store.id).data
        assert file.last_error is not None
        assert "Request too large" in file.last_error.message


def test_a_file_fails_when_the_budget_of_its_key_is_spent(tmp_path: Path) -> None:
    """With the reason in its last error; the files of another key are read."""
    prices = {MODEL: ModelPrice(input=1_000_000)}  # a dollar for a token
    keys = [
        new_key(tmp_path, Principal(name="poor", budget=KeyBudget(usd=1000))),
        new_key(tmp_path, Principal(name="rich")),
    ]
    with (
        running(backend(), tmp_path, accounts=AccountSettings(prices=prices)) as up,
        openai.OpenAI(base_url=up.url, api_key=keys[0], max_retries=0) as poor,
        openai.OpenAI(base_url=up.url, api_key=keys[1], max_retries=0) as rich,
    ):
        spent = poor.vector_stores.create(file_ids=[upload(poor, "a.txt", LONG)])
        other = rich.vector_stores.create(file_ids=[upload(rich, "a.txt", LONG)])
        assert settled(rich, other.id).file_counts.completed == 1
        assert settled(poor, spent.id).file_counts.failed == 1
        [file] = poor.vector_stores.files.list(spent.id).data
        assert file.last_error is not None
        assert file.last_error.code == "server_error"
        assert "This key's budget is spent" in file.last_error.message


def test_a_file_of_a_key_that_has_ended_is_not_read(tmp_path: Path) -> None:
    """Nobody could be charged for it."""
    secret = new_key(tmp_path, Principal(name="short"))
    with (
        running(backend(), tmp_path) as up,
        openai.OpenAI(base_url=up.url, api_key=secret, max_retries=0) as client,
    ):
        ingestion = up.service.storage.vector_stores.ingestion
        up.loop.call_soon_threadsafe(ingestion._tasks[0].cancel)
        client.vector_stores.create(file_ids=[upload(client, "a.txt", LONG)])
        keys = up.service.accounts.keys
        asyncio.run_coroutine_threadsafe(keys.revoke("short"), up.loop).result(PATIENCE_S)
    with running(backend(), tmp_path) as up:
        ingestion = up.service.storage.vector_stores.ingestion
        wait_until(lambda: ingestion.statistics().files_failed_total == 1)
        assert tokens(up) == 0
