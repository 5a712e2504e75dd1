"""The console in a second browser."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.console.conftest import Scripted
from tests.console.firefox import FIREFOX, firefox

pytestmark = pytest.mark.skipif(FIREFOX is None, reason="no Firefox on the path (Debian: apt-get install firefox-esr)")
PAGES = ("requests", "usage", "keys", "models", "engine")


async def look_around(root: str, profile: Path) -> list[str]:
    async with firefox(profile) as page:
        await page.go(f"{root}/console")
        await page.click(".starters button")
        await page.until("document.querySelector('.messages').innerText.includes('Alpha says so.')")
        await page.until("document.querySelector('.answer-facts a') !== null")
        await page.click(".answer-facts a")
        await page.until("document.querySelector('.waterfall') !== null")
        for name in PAGES:
            await page.click(f'nav a[href="#/{name}"]')
            await page.until(f"document.querySelector('h1').innerText.toLowerCase() === '{name}'")
            await page.until("document.querySelector('.state .spinner') === null")
        await page.until("document.querySelector('.health').innerText.includes('Ready')")
        return page.errors


def test_every_page_works_in_firefox(captured: Scripted, tmp_path: Path) -> None:
    """A question is answered, every page opens, and nothing is logged as an error or blocked by the policy."""
    # In a thread: the other browser's library keeps a loop in this one.
    with ThreadPoolExecutor(1) as thread:
        errors = thread.submit(asyncio.run, look_around(captured.server.root, tmp_path)).result()
    assert errors == []
