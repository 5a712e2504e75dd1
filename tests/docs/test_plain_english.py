"""The documentation and the source keep to plain English: a short list of phrases that a reader has to decode."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BANNED = {
    r"\bmend(s|ed|ing)?\b": "fix",
    r"\bof now\b": "current",
    r"\bwho(ever)? (arrives|asks|wants|connects)\b": "name the actor: a request, a client, an operator",
    r"\bwhoever\b": "name the actor",
    r"\b(takes?|shown) the way out\b": "force a closing token",
    r"\bas it came\b": "unchanged",
    r"\balso when\b": "even if, even when",
    r"\bfor good\b": "permanently",
    r"\bstands? for ever\b": "hangs, never ends",
    r"\bstands? (in|on|for|before|behind|beside)\b": "is, means, precedes",
    r"\bbeside\b": "with, next to, in addition to",
    r"\b(is|are|was) no (?!longer\b|more\b|less\b|other\b|such\b|larger\b|sooner\b)[a-z]": "is not a",
    r"\b(was|were|is|are|been|being) told\b": "is reported, is returned, is set",
    r"\b(is|are|requests) in work\b": "in flight",
}
PHRASE = re.compile("|".join(f"({pattern})" for pattern in BANNED), re.IGNORECASE)
THERE_IS_NO = re.compile(r"\bthere (is|are|was) no\b", re.IGNORECASE)
TEXTS = [
    *ROOT.glob("*.md"),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "src").rglob("*.py")),
]


def prose(path: Path) -> str:
    """Return the text without the code of examples, whose lines are left empty."""
    text = path.read_text()
    if path.suffix == ".md":
        text = re.sub(r"^```.*?^```", lambda fence: "\n" * fence[0].count("\n"), text, flags=re.MULTILINE | re.DOTALL)
    return THERE_IS_NO.sub(lambda found: " " * len(found[0]), text)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_phrase_has_to_be_decoded(path: Path) -> None:
    """No line uses a banned phrase; the message says what to write instead."""
    found = [
        f"line {number}: {match[0]!r} - better: {replacement}"
        for number, line in enumerate(prose(path).split("\n"), start=1)
        for pattern, replacement in BANNED.items()
        for match in re.finditer(pattern, line, re.IGNORECASE)
    ]
    assert not found, "\n".join([str(path.relative_to(ROOT)), *found])


@pytest.mark.parametrize(
    ("text", "is_banned"),
    [
        ("the command that mends it", True),
        ("behind the round of now", True),
        ("a body that is no JSON", True),
        ("there is no draft model", False),
        ("it is no longer there", False),
        ("inside the tree", False),
    ],
)
def test_the_list_finds_what_it_should(text: str, *, is_banned: bool) -> None:
    """Banned phrases are found as words, and standard English passes."""
    assert (PHRASE.search(THERE_IS_NO.sub("", text)) is not None) == is_banned
