"""Converts one file in a process of its own, which may run out of its memory or time: ``python -m ... FILE MEMORY SECONDS CHARACTERS``.

Files come from strangers: an archive that unpacks to gigabytes or a PDF without end takes this process down and nothing else.
Writes one JSON object to standard output: ``{"texts": [...], "title": ""}`` or ``{"error": "..."}``.
"""

import json
import resource
import sys
from pathlib import Path
from typing import Any

from antiphon.search.errors import SearchError


def main(arguments: list[str]) -> None:
    """Bound this process, then convert."""
    name, memory_bytes, seconds, max_characters = arguments[0], *(int(text) for text in arguments[1:])
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    json.dump(_converted(Path(name), max_characters), sys.stdout)


def _converted(path: Path, max_characters: int) -> dict[str, Any]:
    from antiphon.search.converted import convert  # noqa: PLC0415 - within the bounds

    try:
        made = convert(path)
    except SearchError as error:
        return {"error": error.message}
    except MemoryError:
        return {"error": "it needs more memory than this server gives to one file"}
    texts = [one.text for one in made if one.text]
    if sum(map(len, texts)) > max_characters:
        return {"error": f"it holds more than {max_characters:,} characters of text"}
    return {"texts": texts, "title": made[0].title if made else ""}


if __name__ == "__main__":
    main(sys.argv[1:])
