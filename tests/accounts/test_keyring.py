"""The keyring when nobody can tell whether the keys changed."""

from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from antiphon.accounts import Principal
from antiphon.accounts.database import connect, open_database, resolve_url
from antiphon.accounts.keyring import Keyring
from antiphon.accounts.keys import KeyStore
from antiphon.accounts.secret import load_hasher
from antiphon.protocol.errors import ApiError

pytestmark = pytest.mark.anyio


class Deaf:
    """A watch whose connection is gone."""

    def epoch(self) -> int | None:
        return None

    async def aclose(self) -> None: ...


async def test_without_a_watch_the_keys_are_read_for_every_request(tmp_path: Path) -> None:
    """A key revoked meanwhile is refused, though no news of it came."""
    engine: AsyncEngine = await open_database(None, tmp_path)
    store = await KeyStore.open(engine, None, tmp_path)
    key, _ = await store.create(Principal(name="one"))
    keyring = Keyring(store, Deaf())
    assert (await keyring.authenticate(f"Bearer {key}")).name == "one"
    await store.revoke("one")
    with pytest.raises(ApiError) as caught:
        await keyring.authenticate(f"Bearer {key}")
    assert caught.value.status == 401
    await engine.dispose()


async def test_without_the_database_nobody_is_let_in(tmp_path: Path) -> None:
    """Whoever cannot be checked is refused with a 503 that may be tried again."""
    engine = connect(resolve_url(f"postgresql://u@/n?host={tmp_path}", tmp_path))
    keyring = Keyring(KeyStore(engine, load_hasher(tmp_path / "key-secret")), Deaf())
    with pytest.raises(ApiError, match="cannot reach its key database") as caught:
        await keyring.authenticate("Bearer sk-antiphon-x")
    assert (caught.value.status, caught.value.headers["Retry-After"]) == (503, "1")
    await engine.dispose()
