"""Chromium for tests of the console: pages that note every error and every violation of the security policy."""

import json
import shutil
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from tests.waiting import PATIENCE_S

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WIDE, PHONE = {"width": 1360, "height": 860}, {"width": 390, "height": 844}
_AXE = files("axe_playwright_python").joinpath("axe.min.js")
_NOTE_VIOLATIONS = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => {
  window.violations.push(`${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}`);
});
"""


@contextmanager
def chromium() -> Generator[Browser]:
    """Run the system's Chromium without a window; skip the test where there is none."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on the path (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        # As root, as in a container, Chromium has no sandbox; the pages are our own.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Tab:
    """A page of its own browser context, with what went wrong in it."""

    def __init__(self, browser: Browser, root: str, **options: Any) -> None:
        settings = {"viewport": WIDE, "permissions": ["clipboard-read", "clipboard-write"], **options}
        self.context: BrowserContext = browser.new_context(**settings)
        self.context.set_default_timeout(PATIENCE_S * 1000 / 4)
        self.page: Page = self.context.new_page()
        self.page.add_init_script(_NOTE_VIOLATIONS)
        self.root = root
        self.faults: list[str] = []
        self.urls: list[str] = []
        self.page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        self.page.on("request", lambda request: self.urls.append(request.url))
        self.page.on("console", lambda message: self._note(message.type, message.text))

    def _note(self, kind: str, text: str) -> None:
        # A refused or unreachable endpoint is no fault of the page: it has to show it, which tests look at.
        if kind in {"error", "warning"} and not text.startswith("Failed to load resource"):
            self.faults.append(f"{kind}: {text}")

    def open(self, place: str = "") -> Page:
        """Show a page of the console."""
        self.page.goto(f"{self.root}/console{f'#/{place}' if place else ''}")
        return self.page

    def violations(self) -> list[str]:
        """What the security policy blocked."""
        found: list[str] = self.page.evaluate("window.violations")
        return found

    def accessibility_problems(self, *, rules: Sequence[str] | None = None) -> list[str]:
        """What axe finds on the page as it is, by all its rules or by some."""
        # The page's policy allows no foreign script; the one of the debugger's is none of the page's.
        self.page.evaluate(_AXE.read_text() + "\n;0")
        only = {} if rules is None else {"runOnly": list(rules)}
        found = self.page.evaluate("options => axe.run(document, options)", {"resultTypes": ["violations"], **only})
        return [
            f"{each['id']}: {node['html'][:160]} {json.dumps(node['any'][:1])[:300]}"
            for each in found["violations"]
            for node in each["nodes"]
        ]

    def close(self) -> None:
        """Close the context; whatever went wrong in the page fails the test."""
        violations = self.violations() if not self.page.is_closed() else []
        self.context.close()
        assert not self.faults
        assert not violations
        foreign = [url for url in self.urls if not url.startswith((self.root, "data:", "blob:"))]
        assert not foreign, "the page loaded something from elsewhere"
