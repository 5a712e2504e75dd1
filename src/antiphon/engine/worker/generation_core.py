"""The core of a model that generates text: continuous batching over a shared prefix cache."""

import math
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import msgspec

from antiphon.engine.ipc.messages import Answer, Generate, Prefill, PrefillEnded, Request, SamplingParams, Score, Scored
from antiphon.engine.model.base import ModelContext, TextModel
from antiphon.engine.model.sizing import choose_for_generation
from antiphon.engine.model.weight_format import Served
from antiphon.engine.sampling.constraint import Constraint, GrammarCompiler, GrammarError
from antiphon.engine.sampling.speculation import NgramPool
from antiphon.engine.scheduling import batch_shapes
from antiphon.engine.scheduling.batch_shapes import BatchShapes
from antiphon.engine.scheduling.prefix_cache import num_cacheable
from antiphon.engine.scheduling.scheduler import Scheduler
from antiphon.engine.settings import EngineSettings
from antiphon.engine.steps.batch_loop import Emit
from antiphon.engine.steps.loop import StepLoop
from antiphon.engine.steps.tasks import Generation, IdlePrefill, Scoring, Task
from antiphon.engine.worker.core import EngineCore, RequestRefused, Start
from antiphon.engine.worker.draft import load_draft
from antiphon.engine.worker.loading import (
    LoadedModel,
    choose_sizes,
    compute_first_batch,
    context_settings,
    describe,
    make_context,
    warm_up,
)
from antiphon.engine.worker.native_start import NativeStart
from antiphon.engine.worker.tokeniser import run_on

_PREFILL_CHUNK_SIZE = 128
"""Most prompt tokens of a prefill step while anything decodes: about what makes a step twice as long on a CPU."""
_FIRST_BATCH_TOKENS = 8


class GenerationCore(EngineCore):
    """Answers ``Generate`` and ``Score``.

    Raises:
        EngineStartFailed: the model cannot be served.
    """

    def __init__(
        self, settings: EngineSettings, native: NativeStart, served: Served, model: TextModel, emit: Emit
    ) -> None:
        draft = load_draft(settings, native, model)
        sizes = choose_sizes(settings, model, choose_for_generation, draft.added_to if draft else None)
        chosen = context_settings(settings, sizes, "chat")
        traits = model.traits(chosen)
        # Slots are free for a plain KV cache; with a recurrent state or a window, each one costs memory.
        num_slots = traits.max_slots if traits.may_drop_tokens else sizes.num_sequences
        context = make_context(model.context, msgspec.structs.replace(chosen, num_sequences=num_slots))
        native.enter("computing the first batch")
        compute_first_batch(context, model, min(_FIRST_BATCH_TOKENS, sizes.batch_size))
        draft_context = draft.context(chosen, sizes, native) if draft else None
        loaded = LoadedModel(
            settings,
            native,
            served,
            model,
            sizes,
            traits,
            context,
            num_slots,
            draft_path=settings.draft_model,
            draft_context=draft_context,
        )
        self._grammars = GrammarCompiler(model.vocabulary)
        self._compile_started: float | None = None
        self._compiler = ThreadPoolExecutor(1, thread_name_prefix="grammars")
        draft_model, idle_work = None, warm_up(context, model)
        if draft is not None and draft_context is not None:
            draft_model = draft.proposer(draft_context, model, settings, sizes, _shapes(loaded))
            idle_work = chain(idle_work, warm_up(draft_context, draft.model))
        self._loop = StepLoop(
            context,
            _scheduler(loaded, context),
            emit,
            mask_s=self._grammars.mask_s,
            can_roll_back=traits.may_undo_steps,
            throttle=loaded.throttle(),
            draft_model=draft_model,
            idle_work=idle_work,
        )
        self._ngram_pool = None
        if settings.draft_tokens and traits.may_drop_tokens:
            self._ngram_pool = NgramPool(settings.draft_tokens)
        super().__init__(loaded, self._loop, describe(loaded, "chat"))

    def warm_up(self) -> None:
        """Build what the first grammar would wait for."""
        self._compiler.submit(self._grammars.warm_up)

    async def _prepare(self, key: tuple[int, int], request: Request, arrived: float) -> Start | Answer:
        match request:
            case Generate():
                return self._start(await self._generation(key, request, arrived))
            case Prefill():
                return await self._prefill(key, request, arrived)
            case Score():
                if not request.continuations:
                    return Scored(request.id, (), ())
                return self._start(await self._scoring(key, request, arrived))
            case _:
                raise self._refuse_kind("is not an embedding model")

    def _start(self, task: Task) -> Start:
        return lambda: self._loop.submit(task)

    async def _prefill(self, key: tuple[int, int], request: Prefill, arrived: float) -> Start | PrefillEnded:
        (prompt,) = await self._encode(request.prompt)
        self._check_length(prompt, 0)
        if not (self._loop.shares_prefixes and num_cacheable(len(prompt))):
            return PrefillEnded(request.id, 0)
        return self._start(IdlePrefill(key, prompt, arrived))

    async def _scoring(self, key: tuple[int, int], request: Score, arrived: float) -> Scoring:
        prompt, *continuations = await self._encode(request.prompt, *request.continuations)
        for continuation in continuations:
            self._check_length(prompt, len(continuation))
        if not all(continuations):
            raise RequestRefused("invalid", "a continuation to be scored is empty")
        return Scoring(key, request, prompt, continuations, arrived)

    async def _generation(self, key: tuple[int, int], request: Generate, arrived: float) -> Generation:
        vocabulary = self._loaded.model.vocabulary
        (prompt,) = await self._encode(request.prompt, num_more=request.max_tokens or 0)
        self._check_length(prompt, 1 if request.max_tokens is None else request.max_tokens)
        room = self._loaded.sizes.context_size - len(prompt)
        most = room if request.default_max_tokens is None else min(room, request.default_max_tokens)
        max_tokens = most if request.max_tokens is None else request.max_tokens
        _check(request, max_tokens, vocabulary.size)
        constraint = None if request.grammar is None else await run_on(self._compiler, self._compile, request.grammar)

        def build() -> Generation:
            return Generation(
                key,
                request,
                prompt,
                max_tokens,
                vocabulary,
                constraint=constraint,
                ngram_pool=self._ngram_pool,
                arrived=arrived,
            )

        return await self._tokeniser.run(build)  # it indexes the prompt's n-grams, which takes a while

    @property
    def native_started(self) -> float | None:
        """As for every core; compiling a grammar counts, since other grammars wait for it."""
        return min(
            (began for began in (self.loop.step_started, self._compile_started) if began is not None), default=None
        )

    def _compile(self, grammar: str) -> Constraint:
        self._compile_started = time.monotonic()
        try:
            return self._grammars.compile(grammar)
        except GrammarError as error:
            raise RequestRefused("grammar", str(error)) from error
        finally:
            self._compile_started = None


def _scheduler(loaded: LoadedModel, context: ModelContext) -> Scheduler:
    settings, sizes = loaded.settings, loaded.sizes
    return Scheduler(
        cells=context.cells,
        slots=loaded.num_slots,
        num_sequences=sizes.num_sequences,
        batch_size=sizes.batch_size,
        prefill_chunk_size=_PREFILL_CHUNK_SIZE,
        max_cached_tokens=sizes.cached_tokens,
        share=settings.prefix_cache and loaded.traits.may_drop_tokens,
        shapes=_shapes(loaded),
    )


def _shapes(loaded: LoadedModel) -> BatchShapes:
    batch_size = loaded.sizes.batch_size
    if not loaded.traits.may_drop_tokens:
        return batch_shapes.free(batch_size)
    match loaded.traits.kernels:
        case "tiled":
            return batch_shapes.tiled(batch_size, attention_weight=loaded.model.facts.attention_weight)
        case "plain":
            return batch_shapes.plain(batch_size)
        case "paged":
            return batch_shapes.paged(batch_size)
        case "padded":
            raise AssertionError("an encoder generates nothing")


def _check(request: Generate, max_tokens: int, vocabulary_size: int) -> None:
    """Refuse values that have no meaning.

    Raises:
        RequestRefused: naming the value.
    """
    bad = next((token for token in request.sampling.logit_bias if not 0 <= token < vocabulary_size), None)
    if bad is not None:
        raise RequestRefused(
            "invalid", f"logit_bias names token {bad}, outside the vocabulary of {vocabulary_size} tokens"
        )
    if not _is_distribution(request.sampling):
        raise RequestRefused("invalid", f"{request.sampling!r} does not define a distribution")
    if request.n < 1 or max_tokens < 0:
        raise RequestRefused(
            "invalid", f"n must be at least 1 and max_tokens at least 0, got {request.n} and {max_tokens}"
        )
    if request.logprobs is not None and not 0 <= request.logprobs <= vocabulary_size:
        raise RequestRefused("invalid", f"logprobs must be from 0 to {vocabulary_size}, got {request.logprobs}")


def _is_distribution(sampling: SamplingParams) -> bool:
    changes = (sampling.presence_penalty, sampling.frequency_penalty, *sampling.logit_bias.values())
    return 0 <= sampling.temperature < math.inf and 0 <= sampling.top_p <= 1 and all(map(math.isfinite, changes))
