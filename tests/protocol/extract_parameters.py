"""Write the paths of every request parameter in OpenAI's OpenAPI document, for ``openai_parameters.json``.

    python tests/protocol/extract_parameters.py openapi.json > tests/protocol/openai_parameters.json

The document is MIT-licensed and published in the repository openai/openai-openapi; names of parameters are all that is
taken from it. ``[]`` stands for the items of an array: ``messages[].content[].text``.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SCHEMAS = {
    "chat/completions": "CreateChatCompletionRequest",
    "completions": "CreateCompletionRequest",
    "embeddings": "CreateEmbeddingRequest",
    "responses": "CreateResponse",
}
# What stands below these is the caller's own: JSON Schemas, and names of the caller's choice.
OPAQUE = ("parameters", "schema")
# What hosted tools and items of other servers hold is theirs; stored prompts are refused whole.
OPAQUE_IN_RESPONSES = (
    "input",
    "tools",
    "tool_choice",
    "prompt",
    "moderation",
    "context_management",
    "prompt_cache_options",
)


def paths(
    schema: dict[str, Any], components: dict[str, Any], prefix: str, opaque: tuple[str, ...] = OPAQUE
) -> Iterator[str]:
    if "$ref" in schema:
        yield from paths(components[schema["$ref"].rsplit("/", 1)[-1]], components, prefix, opaque)
    for keyword in ("allOf", "anyOf", "oneOf"):
        for part in schema.get(keyword, ()):
            yield from paths(part, components, prefix, opaque)
    if "items" in schema:
        yield from paths(schema["items"], components, f"{prefix}[]", opaque)
    for name, value in schema.get("properties", {}).items():
        path = f"{prefix}.{name}" if prefix else name
        yield path
        if name not in opaque:
            yield from paths(value, components, path, opaque)


def _opaque(operation: str) -> tuple[str, ...]:
    return (*OPAQUE, *OPAQUE_IN_RESPONSES) if operation == "responses" else OPAQUE


def main() -> None:
    document = json.loads(Path(sys.argv[1]).read_text())
    components = document["components"]["schemas"]
    found = {
        operation: sorted(set(paths(components[name], components, "", _opaque(operation))))
        for operation, name in SCHEMAS.items()
    }
    sys.stdout.write(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
