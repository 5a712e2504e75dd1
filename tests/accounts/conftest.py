"""Accounts over a database in a temporary folder."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from antiphon.accounts import Accounts, AccountSettings
from antiphon.accounts.keys import KeyStore
from antiphon.accounts.secret import load_hasher


@pytest.fixture
async def accounts(tmp_path: Path) -> AsyncIterator[Accounts]:
    """Accounts without limits, over SQLite."""
    opened = await Accounts.open(AccountSettings(), tmp_path)
    yield opened
    await opened.aclose()


@pytest.fixture
def store(accounts: Accounts, tmp_path: Path) -> KeyStore:
    """The keys of ``accounts``, as the command line changes them."""
    return KeyStore(accounts.engine, load_hasher(tmp_path / "key-secret"))
