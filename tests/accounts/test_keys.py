"""Keys over both databases: made once, hashed, revoked at once everywhere."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import select
from tests.waiting import until

from antiphon.accounts import AccountError, Accounts, AccountSettings, KeyBudget, Limits, Principal
from antiphon.accounts.keys import KeyStore
from antiphon.accounts.schema import key_state, keys
from antiphon.accounts.secret import load_hasher, new_key
from antiphon.accounts.watch.sqlite import SqliteWatch
from antiphon.protocol.errors import ApiError

pytestmark = pytest.mark.anyio


@pytest.fixture
async def workers(database_url: str, tmp_path: Path) -> AsyncIterator[list[Accounts]]:
    """Two workers that started at the same moment on one new database."""
    settings = AccountSettings(database_url=database_url)
    opened = await asyncio.gather(*(Accounts.open(settings, tmp_path) for _ in range(2)))
    yield opened
    for worker in opened:
        await worker.aclose()


@pytest.fixture
def keystore(workers: list[Accounts], tmp_path: Path) -> KeyStore:
    return KeyStore(workers[0].engine, load_hasher(tmp_path / "key-secret"))


async def until_noticed(workers: list[Accounts]) -> None:
    """SQLite is asked each time and knows already; PostgreSQL's notification has to arrive."""
    async with workers[0].engine.connect() as connection:
        generation = (await connection.execute(select(key_state.c.generation))).scalar_one()
    for watch in [worker._watch for worker in workers]:
        if isinstance(watch, SqliteWatch):
            assert watch.epoch() == generation
        else:
            await until(lambda watch=watch: watch.epoch() == generation)


async def refusal(accounts: Accounts, key: str) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await accounts.authenticate(f"Bearer {key}")
    return caught.value


async def test_a_key_is_stored_hashed_and_masked(workers: list[Accounts], keystore: KeyStore) -> None:
    """The database holds a digest and a hint, never the key."""
    key, _ = await keystore.create(Principal(name="one"))
    assert key.startswith("sk-antiphon-")
    assert len(key) == len("sk-antiphon-") + 43
    async with workers[0].engine.connect() as connection:
        row = (await connection.execute(select(keys))).mappings().one()
    assert key not in repr(dict(row))
    assert row["hint"] == f"sk-antip****{key[-4:]}"


async def test_everything_about_a_key_is_kept(workers: list[Accounts], keystore: KeyStore) -> None:
    """Limits, budget, models and rank come back as they were given."""
    given = Principal(
        name="one",
        limits=Limits(rpm=1, tpm=2, rpd=3, concurrency=4),
        budget=KeyBudget(usd=1.5, period="month"),
        models=("a", "b*"),
        is_admin=True,
        expires_at_ms=4_000_000_000_000,
    )
    key, record = await keystore.create(given)
    await until_noticed(workers)
    assert await workers[1].authenticate(f"bearer {key}") == record.principal
    assert record.principal.key_id is not None
    assert (record.principal.limits, record.principal.budget) == (given.limits, given.budget)


async def test_a_revoked_key_ends_at_once_on_all_workers(workers: list[Accounts], keystore: KeyStore) -> None:
    """The next request with it is refused, whichever worker it meets."""
    key, _ = await keystore.create(Principal(name="one"))
    await until_noticed(workers)
    for worker in workers:
        assert (await worker.authenticate(f"Bearer {key}")).name == "one"
    await keystore.revoke("one")
    await until_noticed(workers)
    for worker in workers:
        error = await refusal(worker, key)
        assert (error.status, error.code) == (401, "invalid_api_key")
        assert key not in error.message


async def test_rotating_ends_the_old_secret_and_keeps_the_key(workers: list[Accounts], keystore: KeyStore) -> None:
    """Id, limits and name stay; only the secret changes."""
    old, record = await keystore.create(Principal(name="one", limits=Limits(rpm=9)))
    new, _ = await keystore.rotate("one")
    await until_noticed(workers)
    for worker in workers:
        assert await worker.authenticate(f"Bearer {new}") == record.principal
        assert (await refusal(worker, old)).status == 401


async def test_names_are_unique_among_living_keys(workers: list[Accounts], keystore: KeyStore) -> None:
    """A name is free again after its key was revoked."""
    await keystore.create(Principal(name="one"))
    with pytest.raises(AccountError, match="There is a key named 'one' already"):
        await keystore.create(Principal(name="one"))
    await keystore.revoke("one")
    await keystore.create(Principal(name="one"))
    assert [record.state(0) for record in await keystore.all()] == ["revoked", "active"]


async def test_unknown_and_revoked_names_are_told_apart(workers: list[Accounts], keystore: KeyStore) -> None:
    """A command on a key that is not there, or not any more, says so."""
    _, record = await keystore.create(Principal(name="one"))
    with pytest.raises(AccountError, match="There is no key 'two'"):
        await keystore.revoke("two")
    await keystore.revoke("one")
    assert record.principal.key_id is not None
    for change in (keystore.revoke, keystore.rotate):
        with pytest.raises(AccountError, match="is revoked"):
            await change(record.principal.key_id)


async def test_an_expired_key_is_refused(workers: list[Accounts], keystore: KeyStore) -> None:
    """After its time a key is refused, and its holder learns why."""
    key, _ = await keystore.create(Principal(name="one", expires_at_ms=1_000_000_000_000))
    await until_noticed(workers)
    error = await refusal(workers[0], key)
    assert error.code == "invalid_api_key"
    assert error.message.endswith("expired on 2001-09-09 01:46 UTC.")


@pytest.mark.parametrize("authorization", [None, "", "Bearer ", "Basic c2s6", "sk-antiphon-x"])
async def test_no_key_is_told_from_a_wrong_one(
    workers: list[Accounts], keystore: KeyStore, authorization: str | None
) -> None:
    """Whatever is no bearer token counts as no key."""
    await keystore.create(Principal(name="one"))
    await until_noticed(workers)
    with pytest.raises(ApiError, match="You didn't provide an API key") as caught:
        await workers[0].authenticate(authorization)
    assert (caught.value.status, caught.value.code) == (401, None)


async def test_a_wrong_key_is_masked_in_the_error(workers: list[Accounts], keystore: KeyStore) -> None:
    """The error shows the two ends of a long key and nothing of a short one."""
    await keystore.create(Principal(name="one"))
    await until_noticed(workers)
    wrong = new_key()
    assert f"Incorrect API key provided: sk-antip****{wrong[-4:]}." in (await refusal(workers[0], wrong)).message
    assert "provided: ****." in (await refusal(workers[0], "hunter2")).message


async def test_another_secret_is_noticed(database_url: str, workers: list[Accounts], tmp_path: Path) -> None:
    """A server whose secret does not fit the keys does not start and refuse everybody; it says so."""
    settings = AccountSettings(database_url=database_url, key_secret_file=str(tmp_path / "other"))
    with pytest.raises(AccountError, match="The key secret is not the one"):
        await Accounts.open(settings, tmp_path)


def test_the_secret_is_made_once_and_private(tmp_path: Path) -> None:
    """The second look finds the first one's secret; nobody else may read it; a broken one is refused."""
    path = tmp_path / "home" / "key-secret"
    first, second = load_hasher(path), load_hasher(path)
    assert first.check() == second.check()
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path]
    path.write_bytes(b"short")
    with pytest.raises(AccountError, match="is 5 bytes long"):
        load_hasher(path)
