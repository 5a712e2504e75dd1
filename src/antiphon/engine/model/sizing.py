"""Chooses what the settings leave open, from the model's metadata and the machine. Pure: the facts are given."""

import msgspec

from antiphon.engine.errors import EngineStartFailed
from antiphon.engine.settings import EngineSettings

_KV_BYTES = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32, "q5_1": 24 / 32, "q5_0": 22 / 32, "q4_1": 20 / 32, "q4_0": 18 / 32}  # fmt: skip
_MEMORY_SHARE = 0.6
"""The share of the free memory that the KV cache may take; the rest is for buffers and other processes."""
_MOST_CONTEXTS = 4
_MOST_CELLS = 16384
_LEAST_CONTEXT = 512
_SPARE_CELLS = 256
_CACHED_TOKENS = 4096
"""For a model with one head per million parameters. Every row checks every cell in use, so idle cached tokens slow down
running sequences: by about a tenth with so many."""
BATCH_SIZE = 256
"""On a CPU larger batches are not faster per token, and a new request waits for the running step."""
NUM_SEQUENCES = 32


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the sizes depend on.

    ``kv_values`` are numbers stored per token in all layers, for keys and for values each; ``state_bytes`` is what
    recurrent layers store per sequence. ``attention_weight`` is the number of heads in all layers per million
    parameters: how much attention costs relative to the weights.
    """

    training_context: int
    kv_values_k: int
    kv_values_v: int
    has_state: bool
    state_bytes: int = 0
    attention_weight: float = 0.0


class Machine(msgspec.Struct, frozen=True):
    """Cores this process may use, and bytes of memory that are free now that the model is loaded."""

    cores: int
    free_bytes: int


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """Every size, chosen or given. ``notes`` explain why one is smaller than the model allows."""

    context_size: int
    cells: int
    batch_size: int
    micro_batch_size: int
    num_sequences: int
    threads: int
    batch_threads: int
    flash_attention: bool
    cached_tokens: int
    kv_bytes: int
    notes: tuple[str, ...] = ()


class ContextSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of a context: sizes in tokens, threads, and llama.cpp's names for KV types.

    ``embeddings``: the outputs of a text are pooled. ``ranks``: they go through the model's classification head.
    """

    cells: int
    batch_size: int
    micro_batch_size: int
    num_sequences: int
    threads: int
    batch_threads: int
    kv_type_k: str = "f16"
    kv_type_v: str = "f16"
    flash_attention: bool = False
    embeddings: bool = False
    ranks: bool = False


def choose_for_generation(settings: EngineSettings, model: ModelFacts, machine: Machine) -> Sizes:
    """Return the sizes to serve a model with that generates.

    Raises:
        EngineStartFailed: what the user set does not fit the memory, or contradicts itself.
    """
    memory = _Memory(settings, model, machine)
    context, notes = _context(settings, model, memory.affordable)
    batch = settings.batch_size or BATCH_SIZE
    wanted = max(context, min(_MOST_CONTEXTS * context, _MOST_CELLS, memory.affordable)) + _SPARE_CELLS
    cells = settings.cache_size or wanted
    if cells < context:
        raise EngineStartFailed(
            f"cache_size {cells} is smaller than the context of {context} tokens",
            hint="Raise `cache_size`, or set a smaller `context_size`.",
        )
    micro_batch = min(settings.micro_batch_size or batch, batch)
    return memory.sizes(context, cells, batch, micro_batch, notes)


def choose_for_embedding(settings: EngineSettings, model: ModelFacts, machine: Machine) -> Sizes:
    """Return the sizes to serve an embedding model or a reranker with.

    Attention is not causal, so an input must be one micro-batch: the batch is at least as large as the context.

    Raises:
        EngineStartFailed: what the user set does not fit the memory.
    """
    memory = _Memory(settings, model, machine)
    context, notes = _context(settings, model, memory.affordable)
    batch = max(settings.batch_size or BATCH_SIZE, context)
    return memory.sizes(context, settings.cache_size or context, batch, batch, notes)


class _Memory:
    """What the states of all sequences and each cell cost, and how many cells are affordable."""

    def __init__(self, settings: EngineSettings, model: ModelFacts, machine: Machine) -> None:
        self._settings = settings
        self._model = model
        self._machine = machine
        self._num_sequences = settings.num_sequences or NUM_SEQUENCES
        self._state_bytes = self._num_sequences * model.state_bytes
        bytes_k, bytes_v = _KV_BYTES[settings.kv_type_k], _KV_BYTES[settings.kv_type_v]
        self._per_cell = model.kv_values_k * bytes_k + model.kv_values_v * bytes_v
        self.affordable = _affordable(_MEMORY_SHARE * machine.free_bytes, self._state_bytes, self._per_cell)

    def sizes(self, context: int, cells: int, batch: int, micro_batch: int, notes: list[str]) -> Sizes:
        """Return these sizes with all that does not depend on the kind of model."""
        settings = self._settings
        threads = settings.threads or self._machine.cores
        return Sizes(
            context_size=context,
            cells=max(cells, batch),
            batch_size=batch,
            micro_batch_size=micro_batch,
            num_sequences=self._num_sequences,
            threads=threads,
            batch_threads=settings.batch_threads or threads,
            flash_attention=settings.flash_attention is not False,
            cached_tokens=settings.cached_tokens or _cached(self._model, cells),
            kv_bytes=int(self._per_cell * cells) + self._state_bytes,
            notes=tuple(notes),
        )


def _affordable(available_bytes: float, state_bytes: int, per_cell: float) -> int:
    """Return how many cells fit the memory next to the states of all sequences."""
    left = available_bytes - state_bytes
    if left < 0:
        raise EngineStartFailed(
            f"the states of all sequences, {state_bytes} bytes, need more memory than is free",
            hint="Set a smaller `num_sequences`.",
        )
    return int(left / per_cell) if per_cell else 2**31


def _context(settings: EngineSettings, model: ModelFacts, affordable: int) -> tuple[int, list[str]]:
    if settings.context_size is not None:
        if settings.context_size > affordable:
            raise EngineStartFailed(
                f"a context of {settings.context_size} tokens needs more memory than is free ({affordable} tokens would fit)",
                hint=f"Set `context_size` to at most {affordable}, or a quantised `kv_type_k`.",
            )
        return settings.context_size, []
    if model.training_context <= affordable:
        return model.training_context, []
    context = affordable // _LEAST_CONTEXT * _LEAST_CONTEXT
    if not context:
        raise EngineStartFailed("there is no memory left for a KV cache", hint="Use a smaller model, or free memory.")
    return context, [
        f"context_size {context}: the model's own {model.training_context} tokens do not fit the free memory"
    ]


def _cached(model: ModelFacts, cells: int) -> int:
    return min(cells, int(_CACHED_TOKENS / model.attention_weight)) if model.attention_weight else cells
