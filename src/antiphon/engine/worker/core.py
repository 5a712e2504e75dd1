"""One model behind the socket: what it says of itself, and how each request is checked and becomes a task."""

import math
import os
from pathlib import Path
from typing import Literal

import msgspec

from antiphon.engine.errors import EngineStartFailed
from antiphon.engine.ipc.messages import (
    Answer,
    Embed,
    Embedded,
    Failed,
    Generate,
    ModelInfo,
    Request,
    SamplingParams,
    Score,
    Scored,
    Tokenize,
    Tokenized,
)
from antiphon.engine.machine import free_memory
from antiphon.engine.model.llama import MAX_SEQUENCE_IDS, Context, LlamaError, Model, has_gpu
from antiphon.engine.model.sizing import ContextSettings, Machine, Sizes, choose
from antiphon.engine.model.thread_throttle import ThreadThrottle
from antiphon.engine.model.vocabulary import TokenIdError
from antiphon.engine.sampling.constraint import Constraint, GrammarCompiler, GrammarError
from antiphon.engine.sampling.speculation import NgramPool
from antiphon.engine.scheduling import batch_shapes
from antiphon.engine.scheduling.batch_shapes import BatchShapes
from antiphon.engine.scheduling.scheduler import Scheduler
from antiphon.engine.settings import EngineSettings
from antiphon.engine.steps.embedding import EmbeddingLoop, EmbeddingTask
from antiphon.engine.steps.loop import CancelTask, Emit, StepLoop
from antiphon.engine.steps.tasks import Generation, Scoring, Task
from antiphon.engine.worker.native_start import NativeStart

_PREFILL_CHUNK_SIZE = 128
"""Prompt tokens in a step that also decodes: about what makes a step twice as long on a CPU."""

_WARM_UP_TOKENS = 8


class Refused(Exception):  # noqa: N818 - named after what happened
    """A request that is answered before any work."""

    def __init__(
        self, kind: Literal["context", "invalid", "grammar"], message: str, limit: int = 0, requested: int = 0
    ) -> None:
        super().__init__(message)
        self.kind: Literal["context", "invalid", "grammar"] = kind
        self.limit = limit
        self.requested = requested


class ModelService:
    """A loaded model and its loop.

    Raises:
        EngineStartFailed: the model cannot be served.
    """

    def __init__(self, settings: EngineSettings, emit: Emit, native: NativeStart) -> None:
        self._settings = settings
        self._native = native
        self._served = native.weights()
        native.enter("loading the model")
        self._model = load_model(self._served.path, settings.gpu_layers, extra_buffers=native.extra_buffers)
        self._grammars = GrammarCompiler(self._model.vocabulary)
        self._sizes = self._choose()
        self.context_length = self._sizes.context_size
        self._context = self._make_context()
        native.enter("computing the first batch")
        self._warm_up()
        self.kv_bytes = self._context.memory_bytes
        may_draft = settings.draft_tokens and self._may_drop_tokens
        self._ngram_pool = NgramPool(settings.draft_tokens) if may_draft else None
        self.loop = self._make_loop(emit)
        self.max_requests = self._sizes.num_sequences + settings.max_queue
        self.info = self._describe()

    def _choose(self) -> Sizes:
        try:
            facts = self._model.facts
        except LlamaError as error:
            raise EngineStartFailed(
                f"no context could be made to measure what the model keeps: {error}", hint="Free memory."
            ) from error
        return choose(self._settings, facts, _machine())

    def _make_context(self) -> Context:
        sizes, settings = self._sizes, self._settings
        chosen = ContextSettings(
            cells=sizes.cells,
            batch_size=sizes.batch_size,
            micro_batch_size=sizes.micro_batch_size,
            num_sequences=self._num_slots,
            threads=sizes.threads,
            batch_threads=sizes.batch_threads,
            kv_type_k=settings.kv_type_k,
            kv_type_v=settings.kv_type_v,
            flash_attention=sizes.flash_attention,
            embeddings=self._model.is_embedding,
        )
        try:
            return Context(self._model, chosen)
        except LlamaError as error:
            raise EngineStartFailed(
                f"the context of {sizes.cells} cells could not be made: {error}",
                hint="Serve with a smaller `context_size` or `cache_size`.",
            ) from error

    def _warm_up(self) -> None:
        """Compute a few tokens, so that native code that does not fit this machine fails now."""
        if self._model.has_encoder and self._model.has_decoder:
            return  # decodes only after an encoder's text
        self._context.batch.add(0, 0, [0] * min(_WARM_UP_TOKENS, self._sizes.batch_size), 1)
        if self._model.is_embedding:
            self._context.batch.clear()
            self._context.batch.add(0, 0, [0], 1)
        try:
            self._context.decode()
        except LlamaError as error:
            raise EngineStartFailed(f"the first batch could not be computed: {error}", hint="Free memory.") from error
        self._context.batch.clear()
        self._context.clear()

    @property
    def _num_slots(self) -> int:
        """Sequence ids: plenty, where one costs nothing; one for each running sequence, where it has a state or a window."""
        has_window = self._model.has_sliding_window and not self._model.is_embedding
        return self._sizes.num_sequences if self._model.facts.has_state or has_window else MAX_SEQUENCE_IDS

    def _make_loop(self, emit: Emit) -> StepLoop | EmbeddingLoop:
        if self._model.is_embedding:
            tile = batch_shapes.TILE if self._is_tiled else 1
            return EmbeddingLoop(
                self._context, emit, tile=tile, max_sequences=self._num_slots, throttle=self._throttle()
            )
        scheduler = Scheduler(
            cells=self._context.cells,
            slots=self._num_slots,
            num_sequences=self._sizes.num_sequences,
            batch_size=self._sizes.batch_size,
            prefill_chunk_size=_PREFILL_CHUNK_SIZE,
            max_cached_tokens=self._sizes.cached_tokens,
            share=self._settings.prefix_cache and self._may_drop_tokens,
            shapes=self._shapes(),
        )
        return StepLoop(
            self._context,
            scheduler,
            emit,
            mask_s=self._grammars.mask_s,
            can_roll_back=self._may_undo_steps,
            throttle=self._throttle(),
        )

    def _throttle(self) -> ThreadThrottle | None:
        """Return who gives way to busy neighbours; None where a number of threads was set, which is kept."""
        if self._settings.threads is not None or self._settings.batch_threads is not None:
            return None
        return ThreadThrottle(self._sizes.threads, self._context.set_threads)

    @property
    def _may_drop_tokens(self) -> bool:
        """Whether the end of a sequence can be taken out of the memory again: sharing and guessing need it."""
        return not (self._model.facts.has_state or self._model.has_sliding_window)

    @property
    def _is_tiled(self) -> bool:
        """Whether attention goes in tiles: flash attention on a CPU over keys and values of one plain type."""
        settings = self._settings
        on_gpu = settings.gpu_layers != 0 and has_gpu()
        return (
            self._sizes.flash_attention
            and not on_gpu
            and {settings.kv_type_k, settings.kv_type_v} in ({"f16"}, {"f32"})
        )

    @property
    def _may_undo_steps(self) -> bool:
        """Whether a step that was broken off can be undone: a window's cells are overwritten as it moves.

        It moves at micro-batches, so that what was before a single one is still there.
        """
        is_one_pass = self._sizes.micro_batch_size == self._sizes.batch_size
        return self._may_drop_tokens or (is_one_pass and not self._model.facts.has_state)

    def _shapes(self) -> BatchShapes:
        sizes = self._sizes
        if not self._may_drop_tokens:
            return batch_shapes.free(sizes.batch_size)
        if self._is_tiled:
            return batch_shapes.tiled(sizes.batch_size, attention_weight=self._model.facts.attention_weight)
        return batch_shapes.plain(sizes.batch_size)

    def prepare(self, connection: int, request: Request, arrived: float) -> Task | EmbeddingTask | Answer:
        """Check and tokenise one request, which came at ``arrived`` on the monotonic clock."""
        try:
            return self._prepare((connection, request.id), request, arrived)
        except Refused as refused:
            return Failed(request.id, refused.kind, str(refused), limit=refused.limit, requested=refused.requested)
        except TokenIdError as error:
            return Failed(request.id, "invalid", str(error))

    def warm_up(self) -> None:
        """Do beforehand what the first request would wait for; on the thread that prepares requests."""
        if not self._model.is_embedding:
            self._grammars.warm_up()

    def submit(self, work: Task | EmbeddingTask) -> None:
        """Start what ``prepare`` returned."""
        if isinstance(self.loop, EmbeddingLoop):
            assert isinstance(work, EmbeddingTask)
            self.loop.inbox.put(work)
        else:
            assert isinstance(work, Task)
            self.loop.inbox.put(work)

    def cancel(self, connection: int, request: int | None = None) -> None:
        """Stop one request, or all of a connection's."""
        self.loop.cancel(CancelTask(connection, request))

    def _prepare(self, key: tuple[int, int], request: Request, arrived: float) -> Task | EmbeddingTask | Answer:
        vocabulary = self._model.vocabulary
        match request:
            case Tokenize():
                return Tokenized(request.id, tuple(tuple(vocabulary.encode(prompt)) for prompt in request.prompts))
            case Embed():
                self._check_kind(embedding=True)
                if not request.prompts:
                    return Embedded(request.id, (), ())
                prompts = [vocabulary.encode(prompt, whole=True) for prompt in request.prompts]
                for prompt in prompts:
                    self._check_length(prompt, 0)
                return EmbeddingTask(key, request, prompts)
            case Generate():
                self._check_kind(embedding=False)
                return self._generation(key, request, arrived)
            case Score():
                self._check_kind(embedding=False)
                if not request.continuations:
                    return Scored(request.id, (), ())
                prompt = vocabulary.encode(request.prompt)
                continuations = [vocabulary.encode(continuation) for continuation in request.continuations]
                for continuation in continuations:
                    self._check_length(prompt, len(continuation))
                if not all(continuations):
                    raise Refused("invalid", "a continuation to be scored is empty")
                return Scoring(key, request, prompt, continuations, arrived)
            case _:
                raise AssertionError(request)

    def _generation(self, key: tuple[int, int], request: Generate, arrived: float) -> Generation:
        prompt = self._model.vocabulary.encode(request.prompt)
        self._check_length(prompt, 1 if request.max_tokens is None else request.max_tokens)
        room = self.context_length - len(prompt)
        most = room if request.default_max_tokens is None else min(room, request.default_max_tokens)
        max_tokens = most if request.max_tokens is None else request.max_tokens
        bad = [token for token in request.sampling.logit_bias if not 0 <= token < self._model.vocabulary.size]
        if bad:
            raise Refused(
                "invalid", f"logit_bias names token {bad[0]}, outside the vocabulary of {self._model.vocabulary.size}"
            )
        if not _is_distribution(request.sampling):
            raise Refused("invalid", f"{request.sampling!r} is no distribution")
        if request.n < 1 or max_tokens < 0:
            raise Refused("invalid", f"n {request.n} and max_tokens {max_tokens} must not be negative, nor n zero")
        if request.logprobs is not None and not 0 <= request.logprobs <= self._model.vocabulary.size:
            raise Refused("invalid", f"logprobs {request.logprobs} is not a number of alternatives")
        constraint = None if request.grammar is None else self._compile(request.grammar)
        return Generation(
            key,
            request,
            prompt,
            max_tokens,
            self._model.vocabulary,
            constraint=constraint,
            ngram_pool=self._ngram_pool,
            arrived=arrived,
        )

    def _compile(self, grammar: str) -> Constraint:
        try:
            return self._grammars.compile(grammar)
        except GrammarError as error:
            raise Refused("grammar", str(error)) from error

    def _check_kind(self, *, embedding: bool) -> None:
        if embedding != self._model.is_embedding:
            what = "does not generate text" if self._model.is_embedding else "is no embedding model"
            raise Refused("invalid", f"the model {self._model.description!r} {what}")

    def _check_length(self, prompt: list[int], num_more: int) -> None:
        requested = len(prompt) + num_more
        if not prompt:
            raise Refused("invalid", "the prompt is empty")
        if requested > self.context_length:
            message = f"{len(prompt)} prompt tokens and {num_more} more exceed the context of {self.context_length}"
            raise Refused("context", message, self.context_length, requested)

    def _describe(self) -> ModelInfo:
        model, vocabulary = self._model, self._model.vocabulary
        named = vocabulary.named
        templates = {
            key.removeprefix("tokenizer.chat_template."): text
            for key, text in model.metadata.items()
            if key.startswith("tokenizer.chat_template.")
        }
        fim = {name: vocabulary.text(named[name]) for name in ("prefix", "suffix", "middle") if name in named}
        return ModelInfo(
            architecture=model.architecture,
            description=model.description,
            context_length=self.context_length,
            training_context=model.training_context,
            vocabulary_size=vocabulary.size,
            embedding_size=model.embedding_size,
            size_bytes=model.size_bytes,
            num_parameters=model.num_parameters,
            chat_template=model.metadata.get("tokenizer.chat_template"),
            templates=templates,
            bos_token=vocabulary.text(named.get("bos")),
            eos_token=vocabulary.text(named.get("eos")),
            adds_bos=vocabulary.adds_bos,
            control_tokens=tuple(vocabulary.text(token) for token in sorted(vocabulary.control_tokens)),
            end_tokens=tuple(vocabulary.text(token) for token in sorted(vocabulary.end_tokens)),
            fim_tokens=fim if len(fim) == 3 else {},  # noqa: PLR2004 - all three or none
            metadata=model.metadata,
            is_embedding=model.is_embedding,
            settings=self._chosen(),
            mark_ids=vocabulary.marks,
        )

    def _chosen(self) -> dict[str, str]:
        chosen = msgspec.structs.asdict(self._sizes) | {
            "kv_bytes": "unknown" if self.kv_bytes is None else self.kv_bytes,
            "kv_type_k": self._settings.kv_type_k,
            "kv_type_v": self._settings.kv_type_v,
            "weight_format": self._served.type,
            "weight_format_reason": self._served.reason,
            "prefix_cache": self._settings.prefix_cache,
            "notes": "; ".join(self._sizes.notes),
            **self._native.described(),
        }
        return {key: str(value) for key, value in chosen.items()}


def _is_distribution(sampling: SamplingParams) -> bool:
    changes = (sampling.presence_penalty, sampling.frequency_penalty, *sampling.logit_bias.values())
    return 0 <= sampling.temperature < math.inf and 0 <= sampling.top_p <= 1 and all(map(math.isfinite, changes))


def _machine() -> Machine:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(cores, free_memory())


def load_model(path: Path, gpu_layers: int | None, *, extra_buffers: bool = True) -> Model:
    """Load the file.

    Raises:
        EngineStartFailed: with what llama.cpp said.
    """
    if not path.is_file():
        raise EngineStartFailed(f"there is no file {str(path)!r}", hint="Check the path of the model.")
    try:
        model = Model(path, gpu_layers=gpu_layers, extra_buffers=extra_buffers)
    except LlamaError as error:
        raise EngineStartFailed(
            f"{str(path)!r} could not be loaded: {error}", hint="The file is damaged or no GGUF model; fetch it again."
        ) from error
    if model.is_embedding and not model.gives_vectors:
        raise EngineStartFailed(
            f"{str(path)!r} embeds, but does not pool its outputs into one vector for a text",
            hint="Serve a file whose `pooling_type` is mean, cls or last; rerankers are not served.",
        )
    return model
