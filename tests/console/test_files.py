"""What the console is made of: files of the package, one library, unchanged."""

import hashlib
import re

from antiphon.server.console.static_files import files

LIBRARY = "vendor/htm-preact-3.1.1.js"
SHA256 = "72284e8e9079c87817145df1110f74e8a2aa040b2fc384922e18dfcb46fc1fd7"


def test_the_library_is_the_published_one() -> None:
    """The vendored file is htm's own, byte for byte, and its licences are with it."""
    assert hashlib.sha256(files()[LIBRARY].content).hexdigest() == SHA256
    assert b"Apache License" in files()["vendor/htm-LICENSE.txt"].content
    assert b"MIT License" in files()["vendor/preact-LICENSE.txt"].content


def test_every_file_that_is_named_is_there() -> None:
    """Imports, links and images lead to files of the console, and no file is left over."""
    named = {"index.html", "vendor/htm-LICENSE.txt", "vendor/preact-LICENSE.txt"}
    for name, file in files().items():
        text = file.content.decode()
        if name.endswith(".js") and not name.startswith("vendor/"):
            named |= {found.removeprefix("./") for found in re.findall(r'from "(\./[^"]+)"', text)}
        named |= set(re.findall(r'(?:src|href)="/console/([^"#]+)"', text))
    assert named == set(files())


def test_no_page_sets_html_or_runs_text() -> None:
    """Text of prompts and answers can only be text: nothing that would make it HTML or code is used."""
    own = {name: file.content.decode() for name, file in files().items() if not name.startswith("vendor/")}
    for name, text in own.items():
        found = re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", text)
        assert not found, name


def test_modules_are_short() -> None:
    """The bound on files holds for pages, too."""
    lengths = {name: file.content.count(b"\n") for name, file in files().items() if name.endswith((".js", ".css"))}
    assert max(lengths.values()) <= 400
