"""One model behind the socket: what it says of itself, and how each request is checked and becomes a task."""

import os
from typing import Literal

import msgspec

from antiphon.engine.constraint import Constraint, GrammarCompiler, GrammarError
from antiphon.engine.embedding import EmbeddingLoop, EmbeddingTask
from antiphon.engine.errors import EngineStartFailed
from antiphon.engine.llama import MAX_SEQUENCE_IDS, Context, ContextSettings, LlamaError, Model
from antiphon.engine.loop import CancelTask, Emit, StepLoop
from antiphon.engine.messages import Answer, Embed, Failed, Generate, ModelInfo, Request, Score, Tokenize, Tokenized
from antiphon.engine.scheduler import Scheduler
from antiphon.engine.settings import EngineSettings
from antiphon.engine.statistics import EngineStatistics
from antiphon.engine.tasks import Generation, Scoring, Task
from antiphon.engine.vocabulary import PromptError


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

    def __init__(self, settings: EngineSettings, emit: Emit) -> None:
        self._model = load_model(settings)
        self._settings = settings
        self._grammars = GrammarCompiler(self._model.vocabulary)
        self.context_length = settings.context_size or self._model.training_context
        self._num_sequences = settings.num_sequences or 32
        self._context = self._make_context()
        self.loop = self._make_loop(emit)
        self.max_requests = self._num_sequences + settings.max_queue
        self.info = self._describe()

    def _make_context(self) -> Context:
        is_embedding = self._model.is_embedding
        cells = self._settings.cache_size or self.context_length * (1 if is_embedding else 4)
        batch_size = self._settings.batch_size or 512
        if is_embedding:
            batch_size = max(batch_size, self.context_length)
        cores = len(os.sched_getaffinity(0))
        settings = ContextSettings(
            cells=max(cells, batch_size),
            batch_size=batch_size,
            micro_batch_size=batch_size if is_embedding else self._settings.micro_batch_size or batch_size,
            num_sequences=MAX_SEQUENCE_IDS,
            threads=self._settings.threads or cores,
            batch_threads=self._settings.batch_threads or cores,
            kv_type_k=self._settings.kv_type_k,
            kv_type_v=self._settings.kv_type_v,
            flash_attention=bool(self._settings.flash_attention),
            embeddings=is_embedding,
        )
        self._context_settings = settings
        try:
            return Context(self._model, settings)
        except LlamaError as error:
            raise EngineStartFailed(
                f"the context of {settings.cells} tokens could not be made: {error}",
                hint="Serve with a smaller `context_size` or `cache_size`.",
            ) from error

    def _make_loop(self, emit: Emit) -> StepLoop | EmbeddingLoop:
        if self._model.is_embedding:
            return EmbeddingLoop(self._context, max_sequences=MAX_SEQUENCE_IDS, emit=emit)
        scheduler = Scheduler(
            cells=self._context.cells,
            slots=MAX_SEQUENCE_IDS,
            num_sequences=self._num_sequences,
            batch_size=self._context_settings.batch_size,
            interleaved_size=128,
            share=self._settings.prefix_cache and not (self._model.is_recurrent or self._model.has_sliding_window),
        )
        return StepLoop(self._context, scheduler, emit)

    def prepare(self, connection: int, request: Request) -> Task | EmbeddingTask | Answer:
        """Check and tokenise one request."""
        try:
            return self._prepare((connection, request.id), request)
        except Refused as refused:
            return Failed(request.id, refused.kind, str(refused), limit=refused.limit, requested=refused.requested)
        except PromptError as error:
            return Failed(request.id, "invalid", str(error))

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

    def statistics(self) -> EngineStatistics:
        """Return the state of now; safe from any thread."""
        return self.loop.statistics

    def _prepare(self, key: tuple[int, int], request: Request) -> Task | EmbeddingTask | Answer:
        vocabulary = self._model.vocabulary
        match request:
            case Tokenize():
                return Tokenized(request.id, tuple(tuple(vocabulary.encode(prompt)) for prompt in request.prompts))
            case Embed():
                self._check_kind(embedding=True)
                prompts = [vocabulary.encode(prompt, whole=True) for prompt in request.prompts]
                for prompt in prompts:
                    self._check_length(prompt, 0)
                return EmbeddingTask(key, request, prompts)
            case Generate():
                self._check_kind(embedding=False)
                return self._generation(key, request)
            case Score():
                self._check_kind(embedding=False)
                prompt = vocabulary.encode(request.prompt)
                continuations = [vocabulary.encode(continuation) for continuation in request.continuations]
                for continuation in continuations:
                    self._check_length(prompt, len(continuation))
                if not all(continuations):
                    raise Refused("invalid", "a continuation to be scored is empty")
                return Scoring(key, request, prompt, continuations)
            case _:
                raise AssertionError(request)

    def _generation(self, key: tuple[int, int], request: Generate) -> Generation:
        prompt = self._model.vocabulary.encode(request.prompt)
        self._check_length(prompt, 1 if request.max_tokens is None else request.max_tokens)
        room = self.context_length - len(prompt)
        max_tokens = room if request.max_tokens is None else request.max_tokens
        bad = [token for token in request.sampling.logit_bias if not 0 <= token < self._model.vocabulary.size]
        if bad:
            raise Refused(
                "invalid", f"logit_bias names token {bad[0]}, outside the vocabulary of {self._model.vocabulary.size}"
            )
        if request.n < 1 or max_tokens < 0:
            raise Refused("invalid", f"n {request.n} and max_tokens {max_tokens} must not be negative, nor n zero")
        if request.logprobs is not None and not 0 <= request.logprobs <= self._model.vocabulary.size:
            raise Refused("invalid", f"logprobs {request.logprobs} is not a number of alternatives")
        constraint = None if request.grammar is None else self._compile(request.grammar)
        return Generation(key, request, prompt, max_tokens, self._model.vocabulary, constraint=constraint)

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
            settings={key: str(value) for key, value in msgspec.structs.asdict(self._context_settings).items()},
            mark_ids=vocabulary.marks,
        )


def load_model(settings: EngineSettings) -> Model:
    """Load the file.

    Raises:
        EngineStartFailed: with what llama.cpp said.
    """
    path = settings.model_path
    if not path.is_file():
        raise EngineStartFailed(f"there is no file {str(path)!r}", hint="Check the path of the model.")
    try:
        return Model(path, gpu_layers=settings.gpu_layers)
    except LlamaError as error:
        raise EngineStartFailed(
            f"{str(path)!r} could not be loaded: {error}", hint="The file is damaged or no GGUF model; fetch it again."
        ) from error
