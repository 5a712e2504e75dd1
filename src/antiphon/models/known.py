"""Well-known open models by short names: ``antiphon serve --model qwen3-4b``.

The files lie on the Hugging Face hub, which names the sha256 of each; the store verifies it. Sizes are those of the
files; ``kv_bytes_per_token`` follows from each model's published configuration (layers x KV heads x head size x 2 for
keys and values x 2 bytes). Sliding-window layers are counted as if they kept everything, so the need is never understated.
"""

import msgspec

from antiphon.models.entry import Kind, ModelEntry


class KnownModel(msgspec.Struct, frozen=True, kw_only=True):
    """A catalogue entry and what it needs: memory for its weights, for each token of context, and what one token reads.

    ``read_bytes`` is what computing one token reads of the file: less than all of it for a mixture of experts.
    """

    entry: ModelEntry
    file_bytes: int
    kv_bytes_per_token: int
    read_bytes: int

    def memory_bytes(self, context_size: int) -> int:
        """Return an upper estimate of the memory that serving takes with ``context_size`` tokens of KV cache."""
        return round(self.file_bytes * 1.05) + self.kv_bytes_per_token * context_size + _WORKING_BYTES


_WORKING_BYTES = 400_000_000
"""The process, its compute buffers and its vocabulary: measured between 0.25 and 0.4 GB."""


def _known(
    id: str,  # noqa: A002 - the API's word
    source: str,
    *,
    file_mb: int,
    kv_bytes_per_token: int,
    license: str,  # noqa: A002 - the catalogue's word
    description: str,
    kind: Kind = "chat",
    read_mb: int | None = None,
) -> KnownModel:
    size = file_mb * 1_000_000
    entry = ModelEntry(id=id, kind=kind, source=source, description=description, license=license, download_bytes=size)
    read = size if read_mb is None else read_mb * 1_000_000
    return KnownModel(entry=entry, file_bytes=size, kv_bytes_per_token=kv_bytes_per_token, read_bytes=read)


KNOWN = (
    _known(
        "qwen3-0.6b",
        "hf:Qwen/Qwen3-0.6B-GGUF/Qwen3-0.6B-Q8_0.gguf",
        file_mb=639,
        kv_bytes_per_token=114_688,
        license="Apache-2.0",
        description="Qwen3 0.6B, 8-bit: the smallest with tools and reasoning.",
    ),
    _known(
        "gemma-3-1b",
        "hf:ggml-org/gemma-3-1b-it-GGUF/gemma-3-1b-it-Q4_K_M.gguf",
        file_mb=806,
        kv_bytes_per_token=26_624,
        license="Gemma",
        description="Gemma 3 1B, 4-bit: short answers in many languages.",
    ),
    _known(
        "qwen3-1.7b",
        "hf:Qwen/Qwen3-1.7B-GGUF/Qwen3-1.7B-Q8_0.gguf",
        file_mb=1834,
        kv_bytes_per_token=114_688,
        license="Apache-2.0",
        description="Qwen3 1.7B, 8-bit: tools and reasoning in 3 GB.",
    ),
    _known(
        "llama-3.2-3b",
        "hf:bartowski/Llama-3.2-3B-Instruct-GGUF/Llama-3.2-3B-Instruct-Q4_K_M.gguf",
        file_mb=2019,
        kv_bytes_per_token=114_688,
        license="Llama-3.2",
        description="Llama 3.2 3B Instruct, 4-bit.",
    ),
    _known(
        "phi-4-mini",
        "hf:bartowski/microsoft_Phi-4-mini-instruct-GGUF/microsoft_Phi-4-mini-instruct-Q4_K_M.gguf",
        file_mb=2492,
        kv_bytes_per_token=131_072,
        license="MIT",
        description="Phi-4 mini (3.8B), 4-bit: good at arithmetic and code for its size.",
    ),
    _known(
        "gemma-3-4b",
        "hf:ggml-org/gemma-3-4b-it-GGUF/gemma-3-4b-it-Q4_K_M.gguf",
        file_mb=2490,
        kv_bytes_per_token=139_264,
        license="Gemma",
        description="Gemma 3 4B, 4-bit: a good writer in many languages.",
    ),
    _known(
        "qwen3-4b",
        "hf:Qwen/Qwen3-4B-GGUF/Qwen3-4B-Q4_K_M.gguf",
        file_mb=2497,
        kv_bytes_per_token=147_456,
        license="Apache-2.0",
        description="Qwen3 4B, 4-bit: the first choice for tools and structured output on a laptop.",
    ),
    _known(
        "mistral-7b",
        "hf:bartowski/Mistral-7B-Instruct-v0.3-GGUF/Mistral-7B-Instruct-v0.3-Q4_K_M.gguf",
        file_mb=4373,
        kv_bytes_per_token=131_072,
        license="Apache-2.0",
        description="Mistral 7B Instruct v0.3, 4-bit.",
    ),
    _known(
        "qwen3-8b",
        "hf:Qwen/Qwen3-8B-GGUF/Qwen3-8B-Q4_K_M.gguf",
        file_mb=5028,
        kv_bytes_per_token=147_456,
        license="Apache-2.0",
        description="Qwen3 8B, 4-bit.",
    ),
    _known(
        "qwen3-14b",
        "hf:Qwen/Qwen3-14B-GGUF/Qwen3-14B-Q4_K_M.gguf",
        file_mb=9002,
        kv_bytes_per_token=163_840,
        license="Apache-2.0",
        description="Qwen3 14B, 4-bit.",
    ),
    _known(
        "gpt-oss-20b",
        "hf:ggml-org/gpt-oss-20b-GGUF/gpt-oss-20b-mxfp4.gguf",
        file_mb=12_110,
        kv_bytes_per_token=49_152,
        license="Apache-2.0",
        description="OpenAI's gpt-oss 20B, a mixture of experts: large to hold, quick to run.",
        read_mb=2600,
    ),
    _known(
        "nomic-embed-text-v1.5",
        "hf:nomic-ai/nomic-embed-text-v1.5-GGUF/nomic-embed-text-v1.5.Q8_0.gguf",
        file_mb=146,
        kv_bytes_per_token=0,
        license="Apache-2.0",
        description="nomic-embed-text v1.5, 768 dimensions, texts up to 2,048 tokens.",
        kind="embedding",
    ),
    _known(
        "embeddinggemma-300m",
        "hf:ggml-org/embeddinggemma-300M-GGUF/embeddinggemma-300M-Q8_0.gguf",
        file_mb=329,
        kv_bytes_per_token=0,
        license="Gemma",
        description="EmbeddingGemma 300M, 768 dimensions, more than 100 languages.",
        kind="embedding",
    ),
    _known(
        "qwen3-embedding-0.6b",
        "hf:Qwen/Qwen3-Embedding-0.6B-GGUF/Qwen3-Embedding-0.6B-Q8_0.gguf",
        file_mb=639,
        kv_bytes_per_token=114_688,
        license="Apache-2.0",
        description="Qwen3 Embedding 0.6B, 1,024 dimensions, more than 100 languages, long texts.",
        kind="embedding",
    ),
    _known(
        "bge-reranker-v2-m3",
        "hf:gpustack/bge-reranker-v2-m3-GGUF/bge-reranker-v2-m3-Q8_0.gguf",
        file_mb=636,
        kv_bytes_per_token=0,
        license="Apache-2.0",
        description="BGE reranker v2 m3: ranks documents for a question, more than 100 languages.",
        kind="reranker",
    ),
)
"""Smallest first within each kind; none of them answers before it is named with ``--model`` or in the settings."""
