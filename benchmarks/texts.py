"""Texts of a given length, the same for every contender and different for every seed; and a form to fill in."""

import random
from typing import Any

_WORDS = ["time", "people", "way", "water", "day", "part", "sound", "work", "place", "year", "back", "thing", "name", "sentence", "man", "line", "boy", "farm", "end", "men", "land", "home", "hand", "picture", "air", "animal", "house", "page", "letter", "answer", "study", "world", "food", "country", "plant", "school", "father", "tree", "city", "earth", "eye", "head", "story", "example", "life", "paper", "group", "music", "book", "mark", "night", "river", "car", "feet", "care", "mile", "second", "girl", "sea", "tree", "state", "list", "song", "bird", "body", "dog", "family", "direction", "leave", "product", "black", "short", "class", "wind", "question", "ship", "area", "rock", "order", "fire", "south", "problem", "piece", "king", "space", "hour", "best", "true", "hundred", "remember", "step", "early", "hold", "west", "ground", "interest", "reach", "fast", "verb", "sing", "listen", "table", "travel", "less", "morning", "ten", "simple", "several", "vowel", "toward", "war", "lay", "against", "pattern", "slow", "center", "love", "person"]  # fmt: skip

_TEXT = {"type": "string", "minLength": 16}
_FIELDS: dict[str, Any] = {
    "full_name": _TEXT,
    "occupation": {"enum": ["engineer", "teacher", "physician", "musician"]},
    "home_address": _TEXT,
    "email_address": _TEXT,
    "biography": {"type": "string", "minLength": 160, "maxLength": 400},
    "age_in_years": {"type": "integer", "minimum": 18, "maximum": 99},
    "is_member": {"type": "boolean"},
    "favourite_books": {"type": "array", "items": _TEXT, "minItems": 2, "maxItems": 4},
    "last_visit": {"type": "string", "pattern": "^20[0-9]{2}-[01][0-9]-[0-3][0-9]$"},
    "employer": {"anyOf": [_TEXT, {"type": "null"}]},
}
PERSON: dict[str, Any] = {
    "type": "json_schema",
    "json_schema": {
        "name": "person",
        "schema": {
            "type": "object",
            "properties": _FIELDS,
            "required": list(_FIELDS),
            "additionalProperties": False,
        },
    },
}
"""A response format of ten fields; its shortest JSON is longer than the answers that are generated."""


def words(count: int, seed: str) -> str:
    """Return ``count`` common English words, nearly all of them one token."""
    chooser = random.Random(seed)
    return " ".join(chooser.choice(_WORDS) for _ in range(count))


def sentences(count: int, seed: str) -> list[str]:
    """Return sentences as long as those of the STS benchmark: 4 to 30 words, most of them about 10."""
    chooser = random.Random(seed)
    lengths = [min(30, max(4, round(chooser.lognormvariate(2.3, 0.45)))) for _ in range(count)]
    return [f"{words(length, f'{seed}-{number}').capitalize()}." for number, length in enumerate(lengths)]
